// Heads, and the nearest keys of every head: scores and their minimum in one pass, without ever writing the n x j scores.
//
// score = |key|^2 / 2 - head . key, summed over coordinates in order, so that a row's result does not depend on its batch, its
// position or the number of threads. A projection is the same sum, over features, with no norm to start from. Vectors run over keys; a block of samples shares every key that is loaded. The number of
// coordinates is a template argument: with a run-time loop the same code ran four times slower.
//
// Built once for each instruction set (see setup.py), loaded by _nearest.py through ctypes. No Python header is needed.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kBlock = 8, kTiles = 2, kFewer = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kBlock = 4, kTiles = 2, kFewer = 4;
#else
constexpr int kLanes = 4, kBlock = 4, kTiles = 2, kFewer = 4;
#endif
constexpr int kPanel = kTiles * kLanes;  // keys that are scored together, and lie together
constexpr int kStretch = 16 * kLanes;  // keys between two looks at where the best score was found

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kLargestDim = 16;  // of the templates; more coordinates take the loop that is not unrolled

struct Problem {
    const float *heads;    // n, c, d
    const float *keys;     // c, padded j / kPanel, d, kPanel: centred
    const float *halves;   // c, padded j: half squared lengths; infinite for keys that may not be selected
    const float *centres;  // c, d
    uint16_t *codes;       // n, c, m
    int64_t n_rows, n_heads, n_keys, n_padded;
    int dim, n_selected;
};

inline Floats load(const float *from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Floats all(float value) { return value - Floats{}; }

// Calls `work(size, row)` for every block of rows from start to stop, the largest first.
template <int Largest, class Work>
void for_blocks(int64_t start, int64_t stop, Work work) {
    int64_t row = start;
    for (; row + Largest <= stop; row += Largest) work(std::integral_constant<int, Largest>(), row);
    for (; row + kFewer <= stop; row += kFewer) work(std::integral_constant<int, kFewer>(), row);
    for (; row < stop; ++row) work(std::integral_constant<int, 1>(), row);
}

// Copies a block of samples of one head, centred, coordinates first; rows beyond the last repeat it.
template <int Block>
void centre(const Problem &p, int64_t head, int64_t first, int dim, float *block) {
    for (int row = 0; row < Block; ++row) {
        const int64_t at = first + row < p.n_rows ? first + row : p.n_rows - 1;
        const float *from = p.heads + (at * p.n_heads + head) * dim;
        for (int u = 0; u < dim; ++u) block[u * Block + row] = from[u] - p.centres[head * dim + u];
    }
}

// Scores a block of samples against a few vectors of keys; coordinate u of a sample stands at u * Stride + row.
template <int Tiles, int Block, int Dim, int Stride = Block>
inline void score(const float *keys, const float *halves, int dim, const float *block, Floats (*sums)[Block]) {
    // The compiler must not know that the block stays the same from tile to tile: it would spread every coordinate over a
    // vector once, more of them than there are registers, and read them back from memory at sixteen times the bytes.
    asm("" : "+r"(block));
    for (int tile = 0; tile < Tiles; ++tile)
        for (int row = 0; row < Block; ++row) sums[tile][row] = load(halves + tile * kLanes);
    const int n = Dim ? Dim : dim;
#pragma GCC unroll 16
    for (int u = 0; u < n; ++u) {
        Floats key[Tiles];
        for (int tile = 0; tile < Tiles; ++tile) key[tile] = load(keys + u * kPanel + tile * kLanes);
#pragma GCC unroll 16
        for (int row = 0; row < Block; ++row) {
            const Floats coordinate = all(block[u * Stride + row]);
            for (int tile = 0; tile < Tiles; ++tile) sums[tile][row] -= coordinate * key[tile];
        }
    }
}

// The first key from `at` on whose score is exactly `least`.
template <int Dim, int Stride>
uint16_t first_at(const float *keys, const float *halves, int dim, const float *row, int64_t at, float least) {
    for (;; at += kPanel) {
        Floats sums[kTiles][1];
        score<kTiles, 1, Dim, Stride>(keys + at * dim, halves + at, dim, row, sums);
        for (int key = 0; key < kPanel; ++key)
            if (sums[key / kLanes][0][key % kLanes] == least) return static_cast<uint16_t>(at + key);
    }
}

// One key: every lane keeps the best score of a stretch of keys, a single minimum a vector, and the stretch where its best of
// all was found. The lanes are compared at the end, and the winning stretch scored once more to tell which key it was.
template <int Block, int Dim>
void nearest_one(const Problem &p, int64_t head, int64_t first, float *block) {
    const int dim = Dim ? Dim : p.dim;
    centre<Block>(p, head, first, dim, block);
    const float *keys = p.keys + head * dim * p.n_padded, *halves = p.halves + head * p.n_padded;
    Floats best[Block], sums[kTiles][Block];
    Ints where[Block];
    for (int row = 0; row < Block; ++row) best[row] = all(kInfinity), where[row] = Ints{};
    for (int64_t stretch = 0; stretch < p.n_padded; stretch += kStretch) {
        const int64_t stop = stretch + kStretch < p.n_padded ? stretch + kStretch : p.n_padded;
        Floats least[Block];
        for (int row = 0; row < Block; ++row) least[row] = all(kInfinity);
        for (int64_t at = stretch; at < stop; at += kPanel) {
            score<kTiles, Block, Dim>(keys + at * dim, halves + at, dim, block, sums);
            for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
                for (int row = 0; row < Block; ++row)
                    least[row] = sums[tile][row] < least[row] ? sums[tile][row] : least[row];
        }
        const Ints here = static_cast<int32_t>(stretch) - Ints{};
        for (int row = 0; row < Block; ++row) {
            const Ints closer = least[row] < best[row];
            best[row] = closer ? least[row] : best[row];
            where[row] = closer ? here : where[row];
        }
    }
    for (int row = 0; row < Block && first + row < p.n_rows; ++row) {
        float least = best[row][0];
        int32_t at = where[row][0];
        for (int lane = 1; lane < kLanes; ++lane)
            if (best[row][lane] < least || (best[row][lane] == least && where[row][lane] < at)) {
                least = best[row][lane];
                at = where[row][lane];
            }
        p.codes[(first + row) * p.n_heads + head] = first_at<Dim, Block>(keys, halves, dim, block + row, at, least);
    }
}

// Which lanes of a comparison hold, as bits.
inline uint32_t lanes(const Ints &mask) {
    Ints weights;
    for (int lane = 0; lane < kLanes; ++lane) weights[lane] = 1 << lane;
    weights &= mask;
    uint64_t words[sizeof(Ints) / 8], found = 0;
    std::memcpy(words, &weights, sizeof weights);
    for (uint64_t word : words) found |= word;
    return static_cast<uint32_t>(found | found >> 32);
}

// The best of one sample, ascending; equal scores stay in the order they came, which is that of the keys.
struct Shortlist {
    typedef float Scores __attribute__((vector_size(64)));
    typedef int32_t Codes __attribute__((vector_size(64)));
    Scores scores = kInfinity - Scores{};
    Codes codes = Codes{} - 1;

    void offer(float score, int32_t code) {
        Scores later = __builtin_shufflevector(scores, scores, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        const Codes later_codes = __builtin_shufflevector(codes, codes, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
        later[0] = -kInfinity;
        const Codes stays = scores <= score, enters = later <= score;
        codes = stays ? codes : (enters ? code - Codes{} : later_codes);
        scores = stays ? scores : (enters ? score - Scores{} : later);
    }
};

// Several keys: some tiles are scored together, and looked at only if one of them beats the worst of the shortlist.
template <int Block, int Dim>
void nearest_few(const Problem &p, int64_t head, int64_t first, float *block) {
    const int dim = Dim ? Dim : p.dim;
    centre<Block>(p, head, first, dim, block);
    const float *keys = p.keys + head * dim * p.n_padded, *halves = p.halves + head * p.n_padded;
    Shortlist lists[Block];
    float worst[Block];
    for (float &each : worst) each = kInfinity;
    for (int64_t at = 0; at < p.n_padded; at += kPanel) {
        Floats sums[kTiles][Block];
        score<kTiles, Block, Dim>(keys + at * dim, halves + at, dim, block, sums);
        for (int row = 0; row < Block; ++row)
            for (int tile = 0; tile < kTiles; ++tile)
                for (uint32_t left = lanes(sums[tile][row] < all(worst[row])); left; left &= left - 1) {
                    const int lane = __builtin_ctz(left);
                    const float score = sums[tile][row][lane];
                    if (!(score < worst[row])) continue;
                    lists[row].offer(score, static_cast<int32_t>(at + tile * kLanes + lane));
                    worst[row] = lists[row].scores[p.n_selected - 1];
                }
    }
    for (int row = 0; row < Block && first + row < p.n_rows; ++row) {
        uint16_t *codes = p.codes + ((first + row) * p.n_heads + head) * p.n_selected;
        int found = 0;
        for (; found < p.n_selected && lists[row].codes[found] >= 0; ++found)
            codes[found] = static_cast<uint16_t>(lists[row].codes[found]);
        for (int64_t key = 0; found < p.n_selected && key < p.n_keys; ++key)  // keys run out: unusable ones fill the end
            if (halves[key] == kInfinity) codes[found++] = static_cast<uint16_t>(key);
    }
}

template <int Dim>
void run_head(const Problem &p, int64_t head, int64_t start, int64_t stop, float *block) {
    if (p.n_selected == 1)
        for_blocks<kBlock>(start, stop, [&](auto size, int64_t row) { nearest_one<size, Dim>(p, head, row, block); });
    else
        for_blocks<kFewer>(start, stop, [&](auto size, int64_t row) { nearest_few<size, Dim>(p, head, row, block); });
}

typedef void (*Runner)(const Problem &, int64_t, int64_t, int64_t, float *);

template <int Dim>
Runner choose(int dim) {
    if constexpr (Dim == 0) return run_head<0>;
    else return dim == Dim ? run_head<Dim> : choose<Dim - 1>(dim);
}

constexpr int64_t kChunkRows = 1920;  // of one task: a multiple of every block, so that blocks are cut alike

void search(const Problem &p, Runner run, int64_t thread, int64_t n_threads) {
    std::vector<float> block(static_cast<size_t>(p.dim) * kBlock);
    const int64_t chunks = (p.n_rows + kChunkRows - 1) / kChunkRows;
    for (int64_t task = thread; task < p.n_heads * chunks; task += n_threads) {
        const int64_t start = task / p.n_heads * kChunkRows;
        run(p, task % p.n_heads, start, start + kChunkRows < p.n_rows ? start + kChunkRows : p.n_rows, block.data());
    }
}

struct Product {
    const float *rows;    // n, f
    const float *panels;  // columns / kPanel, f, kPanel: the projection with its sign turned, since scores subtract
    float *heads;         // n, columns
    int64_t n_rows, n_columns;
    int n_features;
};

// Multiplies a block of rows, features first in `block`, with one panel.
template <int Block>
void multiply_block(const Product &p, int64_t panel, int64_t first, const float *block) {
    static const float nothing[kPanel] = {};
    Floats sums[kTiles][Block];
    score<kTiles, Block, 0>(p.panels + panel * p.n_features * kPanel, nothing, p.n_features, block, sums);
    const int64_t column = panel * kPanel, left = p.n_columns - column;
    for (int row = 0; row < Block; ++row) {
        float whole[kPanel];
        for (int tile = 0; tile < kTiles; ++tile) std::memcpy(whole + tile * kLanes, &sums[tile][row], sizeof(Floats));
        std::memcpy(p.heads + (first + row) * p.n_columns + column, whole, sizeof(float) * (left < kPanel ? left : kPanel));
    }
}

template <int Block>
void copy_features_first(const Product &p, int64_t first, float *block) {
    for (int u = 0; u < p.n_features; ++u)
        for (int row = 0; row < Block; ++row) block[u * Block + row] = p.rows[(first + row) * p.n_features + u];
}

constexpr int64_t kProductRows = 128;  // of one task: with one panel they fit a core's second cache

void multiply_rows(const Product &p, int64_t thread, int64_t n_threads) {
    const int64_t share = (p.n_rows + n_threads - 1) / n_threads, whole = (share + kBlock - 1) / kBlock * kBlock;
    const int64_t task = whole < kProductRows ? whole : kProductRows;
    std::vector<float> blocks(static_cast<size_t>(task) * p.n_features);
    for (int64_t start = thread * task; start < p.n_rows; start += n_threads * task) {
        const int64_t stop = start + task < p.n_rows ? start + task : p.n_rows;
        const auto at = [&](int64_t row) { return blocks.data() + (row - start) * p.n_features; };
        for_blocks<kBlock>(start, stop, [&](auto size, int64_t row) { copy_features_first<size>(p, row, at(row)); });
        for (int64_t panel = 0; panel * kPanel < p.n_columns; ++panel)
            for_blocks<kBlock>(start, stop, [&](auto size, int64_t row) { multiply_block<size>(p, panel, row, at(row)); });
    }
}

// Calls `work(thread)` in as many threads, one of them this one.
template <class Work>
void in_threads(int n_threads, Work work) {
    std::vector<std::thread> others;
    for (int thread = 1; thread < n_threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (std::thread &other : others) other.join();
}

}  // namespace

extern "C" {

#if defined(_WIN32)
#define DKVB_API __declspec(dllexport)
#else
#define DKVB_API __attribute__((visibility("default")))
#endif

// How many keys, or columns of a projection, are scored together; their number is padded to a multiple of it.
DKVB_API int64_t dkvb_panel() { return kPanel; }

// The most capable build that this processor runs: 4, 3 or 1 of x86-64; 0 on others.
DKVB_API int dkvb_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return v4 ? 4 : v3 ? 3 : 1;
#else
    return 0;
#endif
}

DKVB_API void dkvb_nearest(const float *heads, const float *keys, const float *halves, const float *centres, uint16_t *codes,
                           int64_t n_rows, int64_t n_heads, int64_t n_keys, int64_t n_padded, int dim, int n_selected,
                           int n_threads) {
    const Problem p{heads, keys, halves, centres, codes, n_rows, n_heads, n_keys, n_padded, dim, n_selected};
    const Runner run = choose<kLargestDim>(dim);
    in_threads(n_threads, [&](int64_t thread) { search(p, run, thread, n_threads); });
}

DKVB_API void dkvb_project(const float *rows, const float *panels, float *heads, int64_t n_rows, int64_t n_columns, int n_features,
                           int n_threads) {
    const Product p{rows, panels, heads, n_rows, n_columns, n_features};
    in_threads(n_threads, [&](int64_t thread) { multiply_rows(p, thread, n_threads); });
}

// Some linkers want an entry of this name in every extension module; Python never imports this one.
DKVB_API void *PyInit__kernel() { return nullptr; }
}
