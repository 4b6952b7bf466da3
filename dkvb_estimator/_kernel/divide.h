// Divides the space of each head into cells, and finds the keys that can be nearest to a sample in each.
//
// A key is left out of a cell if some rival has a lower score everywhere in the cell. With T = (length of the key + length of the
// farthest sample in the cell)^2, the terms of a score sum to at most T, and the search rounds each of them at most Dim + 1 times
// by half an epsilon; the same holds for the rival. The computation here rounds each of the Dim + 1 terms less than ten times.
// A difference above 16 (Dim + 1) epsilon times both T therefore has the same sign in float32, with a margin of two. A term for
// underflow is added.

#pragma once

#include "grid.h"

namespace {

struct Division {
    const float *keys;    // c, j, d: centred
    const float *halves;  // c, j: infinite for keys that may not be selected
    float *cuts;          // output, as the rest; c, d, parts + 1: see Grid
    uint32_t *members;    // c, kCells, words: a bit for each key
    int64_t *counts;      // c, kCells: number of bits that are set
    int64_t n_heads, n_keys;
};

constexpr int kWordKeys = 32;  // keys per word of bits

inline int64_t words_of(int64_t n_keys) { return (n_keys + kWordKeys - 1) / kWordKeys; }

// The keys of one head, coordinates first; keys that may not be selected and padding are at zero.
template <int Dim>
struct Sites {
    int64_t n_padded;
    std::vector<float> coordinates[Dim], halves, lengths, ascending;
    float reach = 0;  // length of the longest key

    explicit Sites(int64_t n_keys) : n_padded(words_of(n_keys) * kWordKeys), halves(n_padded, kInfinity), lengths(n_padded) {
        for (auto &coordinate : coordinates) coordinate.resize(n_padded);
    }

    void take(const Division &d, int64_t head) {
        reach = 0;
        for (int64_t key = 0; key < d.n_keys; ++key) {
            const float half = halves[key] = d.halves[head * d.n_keys + key];
            const bool usable = half < kInfinity;
            for (int u = 0; u < Dim; ++u) coordinates[u][key] = usable ? d.keys[(head * d.n_keys + key) * Dim + u] : 0;
            lengths[key] = usable ? std::sqrt(2 * half) : 0;
            reach = std::max(reach, lengths[key]);
        }
    }

    // The coordinates of keys that may be selected, ascending.
    const std::vector<float> &sorted(int u) {
        ascending.clear();
        for (int64_t key = 0; key < n_padded; ++key)
            if (halves[key] < kInfinity) ascending.push_back(coordinates[u][key]);
        std::sort(ascending.begin(), ascending.end());
        return ascending;
    }
};

// Cuts each coordinate so that every part holds the same number of keys; outer parts are as wide as all others together, or wider
// if those of another coordinate are. A head without keys that may be selected, or with sums of lengths that may overflow, has
// no cells: all samples are outside.
template <int Dim>
bool cut(Sites<Dim> &sites, float *cuts) {
    constexpr int parts = parts_of(Dim);
    std::fill(cuts, cuts + Dim * (parts + 1), kInfinity);
    if (!(sites.reach < kLargestReach)) return false;
    float width = 0;
    for (int u = 0; u < Dim; ++u) {
        const std::vector<float> &ascending = sites.sorted(u);
        if (ascending.empty()) return false;
        float *here = cuts + u * (parts + 1);
        for (int part = 1; part < parts; ++part) here[part] = ascending[part * ascending.size() / parts];
        width = std::max(width, here[parts - 1] - here[1]);
    }
    for (int u = 0; u < Dim; ++u, cuts += parts + 1) {
        cuts[0] = cuts[1] - width;
        cuts[parts] = cuts[parts - 1] + width;
    }
    return true;
}

// A cell, and how much lower than that of a rival the score of a key can be in it.
template <int Dim>
struct Cell {
    float middle[Dim], side[Dim], farthest;  // side: half the width

    Cell(const float *cuts, int number) {
        constexpr int parts = parts_of(Dim);
        float squared = 0;
        for (int u = Dim - 1; u >= 0; --u, number /= parts) {
            const float low = cuts[u * (parts + 1) + number % parts], high = cuts[u * (parts + 1) + number % parts + 1];
            const float far = std::max(std::fabs(low), std::fabs(high));
            middle[u] = low + (high - low) / 2;
            side[u] = std::max(high - middle[u], middle[u] - low);
            squared += far * far;
        }
        farthest = std::sqrt(squared);
    }

    // Bound on the rounding of scores of keys of a length.
    template <class Lengths>
    Lengths margin(Lengths lengths) const {
        const Lengths far = lengths + farthest;
        return 16 * (Dim + 1) * std::numeric_limits<float>::epsilon() * far * far + 32 * std::numeric_limits<float>::min();
    }
};

template <int Dim>
Floats scores_at(const Sites<Dim> &sites, int64_t at, const float *point) {
    Floats sum = load(sites.halves.data() + at);
    for (int u = 0; u < Dim; ++u) sum -= load(sites.coordinates[u].data() + at) * all(point[u]);
    return sum;
}

template <int Dim>
int32_t nearest_to(const Sites<Dim> &sites, const float *point) {
    Floats best = all(kInfinity);
    Ints where = {};
    for (int64_t at = 0; at < sites.n_padded; at += kLanes) {
        const Floats sum = scores_at(sites, at, point);
        where = sum < best ? all(static_cast<int32_t>(at)) : where;
        best = least(best, sum);
    }
    return least_of(best == all(least_of(best)) ? where + lane_numbers() : all(kNoKey));
}

// The keys nearest to the middle and to the corners of a cell; they rule out almost all keys that are nowhere nearest.
template <int Dim>
struct Rivals {
    static constexpr int kCount = 1 + (1 << Dim);
    float coordinates[kCount][Dim], scores[kCount];  // scores in the middle, with a margin

    Rivals(const Sites<Dim> &sites, const Cell<Dim> &cell) {
        for (int rival = 0; rival < kCount; ++rival) {
            float point[Dim];
            for (int u = 0; u < Dim; ++u)
                point[u] = cell.middle[u] + (rival == kCount - 1 ? 0 : rival >> u & 1 ? cell.side[u] : -cell.side[u]);
            const int32_t key = nearest_to(sites, point);
            scores[rival] = sites.halves[key] + cell.margin(sites.lengths[key]);
            for (int u = 0; u < Dim; ++u) {
                coordinates[rival][u] = sites.coordinates[u][key];
                scores[rival] -= cell.middle[u] * coordinates[rival][u];
            }
        }
    }
};

// Which keys of a vector score higher than some rival everywhere in the cell. Scores are linear in the sample, so the smallest
// difference is the one in the middle minus the largest change over the sides of the cell.
template <int Dim>
Ints beaten(const Sites<Dim> &sites, const Cell<Dim> &cell, const Rivals<Dim> &rivals, int64_t at) {
    const Floats middle = scores_at(sites, at, cell.middle) - cell.margin(load(sites.lengths.data() + at));
    Ints found = {};
    for (int rival = 0; rival < rivals.kCount; ++rival) {
        Floats ahead = middle - all(rivals.scores[rival]);
        for (int u = 0; u < Dim; ++u) {
            const Floats off = load(sites.coordinates[u].data() + at) - all(rivals.coordinates[rival][u]);
            ahead -= all(cell.side[u]) * greatest(off, -off);
        }
        found |= ahead > Floats{};
    }
    return found;
}

template <int Dim>
void divide_head(const Division &d, int64_t head, Sites<Dim> &sites) {
    const int64_t n_words = words_of(d.n_keys);
    float *cuts = d.cuts + head * Dim * (parts_of(Dim) + 1);
    sites.take(d, head);
    const bool divided = cut(sites, cuts);
    for (int number = 0; number < kCells; ++number) {
        uint32_t *members = d.members + (head * kCells + number) * n_words;
        int64_t &count = d.counts[head * kCells + number] = 0;
        std::fill(members, members + n_words, 0);
        if (!divided) continue;
        const Cell<Dim> cell(cuts, number);
        const Rivals<Dim> rivals(sites, cell);
        for (int64_t word = 0; word < n_words; ++word) {
            Bits bits;
            for (int v = 0; v < kWordKeys / kLanes; ++v)
                bits.add(~beaten(sites, cell, rivals, word * kWordKeys + v * kLanes), v);
            members[word] = bits.all();
            count += __builtin_popcount(members[word]);
        }
    }
}

template <int Dim>
void divide(const Division &d, int64_t thread, int64_t n_threads) {
    Sites<Dim> sites(d.n_keys);
    for (int64_t head = thread; head < d.n_heads; head += n_threads) divide_head(d, head, sites);
}

// Writes the names of keys with set bits, one list after another.
inline void list_names(const uint32_t *members, uint16_t *names, int64_t n_lists, int64_t n_words) {
    for (int64_t i = 0; i < n_lists * n_words; ++i)
        for (uint32_t left = members[i]; left; left &= left - 1)
            *names++ = static_cast<uint16_t>(i % n_words * kWordKeys + __builtin_ctz(left));
}

}  // namespace
