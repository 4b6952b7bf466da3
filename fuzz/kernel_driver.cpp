// Runs the kernel's search and projection on random and edge-case shapes; built together with the kernel and the sanitizers.
// Each array is a separate allocation of exactly the length that the interface requires, so reading one float too far is detected.
// Every result is compared with a plain search.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

extern "C" int64_t dkvb_panel();
extern "C" void dkvb_nearest(const float *, const float *, const float *, const float *, uint16_t *, int64_t, int64_t, int64_t,
                             int64_t, int, int, int);
extern "C" int64_t dkvb_sides(int64_t);
extern "C" double dkvb_arrange(const float *, const float *, int32_t *, float *, float *, int64_t, int64_t, int64_t, int, int);
extern "C" void dkvb_nearest_boxed(const float *, const float *, const float *, const float *, const float *, const int32_t *,
                                   const float *, uint16_t *, int64_t, int64_t, int64_t, int64_t, int, int);
extern "C" int64_t dkvb_cells();
extern "C" int64_t dkvb_parts(int);
extern "C" void dkvb_divide(const float *, const float *, float *, uint32_t *, int64_t *, int64_t, int64_t, int, int);
extern "C" void dkvb_list(const uint32_t *, uint16_t *, int64_t, int64_t);
extern "C" void dkvb_nearest_in_grid(const float *, const float *, const float *, const float *, const float *, const int64_t *,
                                     const uint16_t *, uint16_t *, int64_t, int64_t, int64_t, int, int);
extern "C" void dkvb_project(const float *, const float *, float *, int64_t, int64_t, int, int);

namespace {

struct Shape {
    int64_t rows, heads, keys;
    int dim, selected, threads;
};

float draw(std::mt19937 &rng, int kind) {
    const float usual = std::normal_distribution<float>()(rng);
    switch (kind) {
        case 0: return usual;
        case 1: return usual * 1e18f;
        case 2: return usual * 1e-38f;
        case 3: return static_cast<float>(static_cast<int>(usual * 2));  // many ties
        default: return 0;
    }
}

int64_t padded(int64_t n) { return (n + dkvb_panel() - 1) / dkvb_panel() * dkvb_panel(); }

// Position of coordinate u of vector j in the panels.
int64_t at(int64_t j, int64_t u, int64_t dim) { return (j / dkvb_panel() * dim + u) * dkvb_panel() + j % dkvb_panel(); }

bool projects(const Shape &s, std::mt19937 &rng, int kind) {
    const int64_t rows = s.rows, columns = s.keys;
    std::unique_ptr<float[]> x(new float[rows * s.dim]), panels(new float[padded(columns) * s.dim]());
    std::unique_ptr<float[]> heads(new float[rows * columns]);
    for (int64_t i = 0; i < rows * s.dim; ++i) x[i] = draw(rng, kind);
    for (int64_t j = 0; j < columns; ++j)
        for (int u = 0; u < s.dim; ++u) panels[at(j, u, s.dim)] = -draw(rng, 0);
    dkvb_project(x.get(), panels.get(), heads.get(), rows, columns, s.dim, s.threads);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            double sum = 0, size = 0;
            for (int u = 0; u < s.dim; ++u) {
                const double part = -static_cast<double>(x[i * s.dim + u]) * panels[at(j, u, s.dim)];
                sum += part;
                size += std::fabs(part);
            }
            if (!(std::fabs(heads[i * columns + j] - sum) <= 1e-6 * (s.dim + 1) * size + 1e-37)) {
                std::printf("row %lld column %lld: %g, expected %g\n", static_cast<long long>(i), static_cast<long long>(j),
                            heads[i * columns + j], sum);
                return false;
            }
        }
    return true;
}

bool same(const Shape &s, const char *where, const uint16_t *found, const uint16_t *codes) {
    for (int64_t i = 0; i < s.rows * s.heads; ++i)
        if (found[i] != codes[i]) {
            std::printf("row and head %lld: key %d in %s, %d in a scan\n", static_cast<long long>(i), found[i], where, codes[i]);
            return false;
        }
    return true;
}

// The same search in a grid, with keys and half lengths without padding.
bool grid_agrees(const Shape &s, const float *heads, const float *keys, const float *halves, const float *centres,
                 const uint16_t *codes) {
    const int64_t n_lists = s.heads * dkvb_cells(), n_words = (s.keys + 31) / 32;
    std::unique_ptr<float[]> cuts(new float[s.heads * s.dim * (dkvb_parts(s.dim) + 1)]);
    std::unique_ptr<uint32_t[]> members(new uint32_t[n_lists * n_words]);
    std::unique_ptr<int64_t[]> counts(new int64_t[n_lists]), starts(new int64_t[n_lists + 1]());
    dkvb_divide(keys, halves, cuts.get(), members.get(), counts.get(), s.heads, s.keys, s.dim, s.threads);
    for (int64_t i = 0; i < n_lists; ++i) starts[i + 1] = starts[i] + counts[i];
    std::unique_ptr<uint16_t[]> names(new uint16_t[starts[n_lists]]), found(new uint16_t[s.rows * s.heads]);
    dkvb_list(members.get(), names.get(), n_lists, s.keys);
    dkvb_nearest_in_grid(heads, keys, halves, centres, cuts.get(), starts.get(), names.get(), found.get(), s.rows, s.heads,
                         s.keys, s.dim, s.threads);
    return same(s, "a grid", found.get(), codes);
}

// The same search in boxes and in a grid, with `panels` and `halves` as for a scan. If the plain build does not fuse products
// with sums, one compiler translates the same expression for all searches, so codes are compared exactly.
bool arranged_agree(const Shape &s, const float *heads, const float *panels, const float *halves, const float *centres,
                    const uint16_t *codes) {
    const int64_t n = padded(s.keys);
    std::unique_ptr<float[]> keys(new float[s.heads * s.keys * s.dim]), usable(new float[s.heads * s.keys]);
    for (int64_t c = 0; c < s.heads; ++c)
        for (int64_t j = 0; j < s.keys; ++j) {
            usable[c * s.keys + j] = halves[c * n + j];
            for (int u = 0; u < s.dim; ++u) keys[(c * s.keys + j) * s.dim + u] = panels[c * s.dim * n + at(j, u, s.dim)];
        }
    std::unique_ptr<int32_t[]> names(new int32_t[s.heads * n]);
    std::unique_ptr<float[]> sides(new float[s.heads * dkvb_sides(n) * s.dim]), reaches(new float[s.heads]);
    dkvb_arrange(keys.get(), usable.get(), names.get(), sides.get(), reaches.get(), s.heads, s.keys, n, s.dim, s.threads);
    std::unique_ptr<float[]> arranged(new float[s.heads * s.dim * n]()), there(new float[s.heads * n]);
    for (int64_t c = 0; c < s.heads; ++c)
        for (int64_t place = 0; place < n; ++place) {
            const int64_t j = names[c * n + place];
            there[c * n + place] = place < s.keys ? halves[c * n + j] : INFINITY;
            for (int u = 0; u < s.dim && place < s.keys; ++u)
                arranged[c * s.dim * n + at(place, u, s.dim)] = panels[c * s.dim * n + at(j, u, s.dim)];
        }
    std::unique_ptr<uint16_t[]> boxed(new uint16_t[s.rows * s.heads]);
    dkvb_nearest_boxed(heads, arranged.get(), there.get(), centres, sides.get(), names.get(), reaches.get(), boxed.get(), s.rows,
                       s.heads, s.keys, n, s.dim, s.threads);
    if (!same(s, "boxes", boxed.get(), codes)) return false;
    return !dkvb_parts(s.dim) || grid_agrees(s, heads, keys.get(), usable.get(), centres, codes);
}

bool holds(const Shape &s, std::mt19937 &rng, int kind, float unusable) {
    const int64_t n = padded(s.keys);
    std::unique_ptr<float[]> heads(new float[s.rows * s.heads * s.dim]), keys(new float[s.heads * s.dim * n]());
    std::unique_ptr<float[]> halves(new float[s.heads * n]), centres(new float[s.heads * s.dim]);
    std::unique_ptr<uint16_t[]> codes(new uint16_t[s.rows * s.heads * s.selected]);
    for (int64_t i = 0; i < s.rows * s.heads * s.dim; ++i) heads[i] = draw(rng, kind);
    for (int64_t i = 0; i < s.heads * s.dim; ++i) centres[i] = draw(rng, kind);
    for (int64_t c = 0; c < s.heads; ++c)
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int u = 0; u < s.dim && j < s.keys; ++u) {
                const float value = draw(rng, kind);
                keys[c * s.dim * n + at(j, u, s.dim)] = value;
                sum += static_cast<double>(value) * value / 2;
            }
            const bool out = j >= s.keys || std::uniform_real_distribution<float>()(rng) < unusable;
            halves[c * n + j] = out ? INFINITY : static_cast<float>(sum);
        }
    dkvb_nearest(heads.get(), keys.get(), halves.get(), centres.get(), codes.get(), s.rows, s.heads, s.keys, n, s.dim,
                 s.selected, s.threads);
    for (int64_t i = 0; i < s.rows; ++i)
        for (int64_t c = 0; c < s.heads; ++c) {
            double best = INFINITY, size = 0, found = INFINITY;
            const int64_t code = codes[(i * s.heads + c) * s.selected];
            for (int64_t j = 0; j < s.keys; ++j) {
                double score = halves[c * n + j];
                if (std::isinf(score)) continue;
                double largest = score;
                for (int u = 0; u < s.dim; ++u) {
                    const float centred = heads[(i * s.heads + c) * s.dim + u] - centres[c * s.dim + u];
                    const double part = static_cast<double>(centred) * keys[c * s.dim * n + at(j, u, s.dim)];
                    score -= part;
                    largest += std::fabs(part);
                }
                best = std::fmin(best, score);
                size = std::fmax(size, largest);
                if (j == code) found = score;
            }
            if (code >= s.keys || (std::isfinite(best) && !(found - best <= 1e-6 * (s.dim + 1) * size + 1e-37))) {
                std::printf("row %lld head %lld: key %lld scores %g, the nearest %g\n", static_cast<long long>(i),
                            static_cast<long long>(c), static_cast<long long>(code), found, best);
                return false;
            }
        }
    if (s.selected > 1 || s.dim > 16) return true;
    return arranged_agree(s, heads.get(), keys.get(), halves.get(), centres.get(), codes.get());
}

}  // namespace

int main(int n_arguments, char **arguments) {
    const int n = n_arguments > 1 ? std::atoi(arguments[1]) : 1000;
    std::mt19937 rng(0);
    auto among = [&](int64_t least, int64_t most) { return std::uniform_int_distribution<int64_t>(least, most)(rng); };
    const int64_t rows[] = {1, 2, 3, 4, 5, 11, 12, 13, 16, 25}, keys[] = {1, 2, 15, 16, 17, 63, 64, 65, 256, 257};
    int done = 0;
    for (; done < n; ++done) {
        const bool edge = done % 2;
        Shape s{edge ? rows[done / 2 % 10] : among(1, 60), among(1, 4), edge ? keys[done / 20 % 10] : among(1, 300),
                static_cast<int>(done % 7 < 3 ? among(1, 3) : among(1, 20)), 1, static_cast<int>(among(1, 3))};
        s.selected = done % 3 ? 1 : static_cast<int>(among(1, s.keys < 16 ? s.keys : 16));
        if (done % 97 == 0) s.rows = 1921, s.heads = 1, s.keys = 20;  // more than one task per head
        if (done % 89 == 0) s.rows = 40, s.heads = 1, s.keys = among(1000, 4200);  // several reaches and groups of boxes
        if (!holds(s, rng, static_cast<int>(among(0, 4)), done % 5 ? 0.0f : 0.5f)) return 1;
        if (!projects(s, rng, static_cast<int>(among(0, 4)))) return 1;
    }
    std::printf("%d problems\n", done);
    return 0;
}
