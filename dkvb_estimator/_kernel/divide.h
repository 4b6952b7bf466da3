// Cuts the space of each head into cells, and tells which keys can be nearest to a sample in each.
//
// A key is left out of a cell where it scores more than some rival everywhere in it. With T = (its length + that of the farthest
// sample in the cell)^2, the terms of its score add up to T at most, and the search rounds each Dim + 1 times, by half an epsilon
// of it; so it does for the rival. What is computed here is rounded less than ten times for each of Dim + 1 terms. So where a key
// is found to score more by 16 (Dim + 1) epsilon times both T, it does in float32 too, with twice as much to spare; what
// underflows is added.

#pragma once

#include "grid.h"

namespace {

struct Division {
    const float *keys;    // c, j, d: centred
    const float *halves;  // c, j: infinite for keys that may not be selected
    float *cuts;          // the rest is written; c, d, parts + 1: see Grid
    uint32_t *members;    // c, kCells, words: a bit for each key
    int64_t *counts;      // c, kCells: how many bits are set
    int64_t n_heads, n_keys;
};

constexpr int kWordKeys = 32;  // keys whose bits are a word

inline int64_t words_of(int64_t n_keys) { return (n_keys + kWordKeys - 1) / kWordKeys; }

// The keys of one head, coordinates first; those that may not be selected, and those behind the last, are at zero.
template <int Dim>
struct Sites {
    int64_t n_padded;
    std::vector<float> coordinates[Dim], halves, lengths, ascending;
    float reach = 0;  // the length of the longest

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

// Cuts each coordinate so that equally many keys lie in every part; outer parts are as wide as all others together, or more where
// those of another coordinate are. A head without keys that may be selected, or with lengths whose sums may overflow, has no
// cells: all samples are outside.
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

// A cell, and what its keys are held against: how much nearer than a rival a key can be.
template <int Dim>
struct Cell {
    float middle[Dim], side[Dim], farthest;  // side: half of it

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

    // What rounding can make of the scores of keys of a length.
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

// The keys nearest to a cell's middle and to its corners: hardly a key that is not nearest anywhere in the cell beats them all.
template <int Dim>
struct Rivals {
    static constexpr int kCount = 1 + (1 << Dim);
    float coordinates[kCount][Dim], scores[kCount];  // the scores in the middle, with a margin

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

// Which of a vector of keys score more than some rival everywhere in the cell. Scores are linear in the sample, so the least
// difference is that in the middle less what the cell's sides can take away.
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

// Writes the names of the keys whose bits are set, list behind list.
inline void list_names(const uint32_t *members, uint16_t *names, int64_t n_lists, int64_t n_words) {
    for (int64_t i = 0; i < n_lists * n_words; ++i)
        for (uint32_t left = members[i]; left; left &= left - 1)
            *names++ = static_cast<uint16_t>(i % n_words * kWordKeys + __builtin_ctz(left));
}

}  // namespace
