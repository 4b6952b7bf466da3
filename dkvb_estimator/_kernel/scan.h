// Search that scores every key.

#pragma once

#include <algorithm>

#include "vectors.h"

namespace {

struct Problem {
    const float *heads;    // n, c, d
    const float *keys;     // c, padded j / kPanel, d, kPanel: centred
    const float *halves;   // c, padded j: half squared lengths; infinite for keys that may not be selected
    const float *centres;  // c, d
    uint16_t *codes;       // n, c, m
    int64_t n_rows, n_heads, n_keys, n_padded;
    int dim, n_selected;
};

constexpr int kStretch = 4 * kLanes;  // keys between two updates of the best position; 2 to 16 vectors were tried
constexpr int kReach = 4096;          // keys scored at once: with a block they fit into the L2 cache of a core
static_assert(kReach % kPanel == 0 && kPanel <= 32, "a panel's comparisons are 32 bits");

// Memory of a thread.
struct Workspace {
    std::vector<float> samples;  // d, kBlock: a block of one head, centred
    std::vector<Floats> scores;  // kReach / kLanes, kBlock

    explicit Workspace(const Problem &p)
        : samples(static_cast<size_t>(p.dim) * kBlock), scores(p.n_selected > 1 ? std::min<int64_t>(p.n_padded, kReach) / kLanes * kBlock : 0) {}
};

// Copies a block of samples of one head, centred, coordinates first.
template <int Block>
void centre(const Problem &p, int64_t head, int64_t first, int dim, float *block) {
    for (int row = 0; row < Block; ++row) {
        const float *from = p.heads + ((first + row) * p.n_heads + head) * dim;
        for (int u = 0; u < dim; ++u) block[u * Block + row] = from[u] - p.centres[head * dim + u];
    }
}

// The first key from `at` on with a score of exactly `wanted`; key 0 if sums overflowed and there is none.
template <int Dim, int Stride>
uint16_t first_at(const Problem &p, const float *keys, const float *halves, const float *row, int64_t at, float wanted) {
    for (; at < p.n_padded; at += kPanel) {
        Floats sums[kTiles][1];
        score<kTiles, 1, Dim, Stride>(keys + at * p.dim, halves + at, p.dim, row, sums);
        Bits bits;
        for (int tile = 0; tile < kTiles; ++tile) bits.add(sums[tile][0] == all(wanted), tile);
        if (const uint32_t found = bits.all()) {
            const int64_t key = at + __builtin_ctz(found);
            return static_cast<uint16_t>(key < p.n_keys ? key : 0);
        }
    }
    return 0;
}

// One key: each lane keeps its best score in a stretch of keys, with one minimum per vector, and the stretch of its best score
// overall. The lanes are compared at the end, and the winning stretch is scored again to find the key.
template <int Block, int Dim>
void nearest_one(const Problem &p, int64_t head, int64_t first, Workspace &space) {
    const int dim = Dim ? Dim : p.dim;
    float *block = space.samples.data();
    centre<Block>(p, head, first, dim, block);
    const float *keys = p.keys + head * dim * p.n_padded, *halves = p.halves + head * p.n_padded;
    Floats best[Block], sums[kTiles][Block];
    Ints where[Block];
    for (int row = 0; row < Block; ++row) best[row] = all(kInfinity), where[row] = Ints{};
    for (int64_t stretch = 0; stretch < p.n_padded; stretch += kStretch) {
        const int64_t stop = stretch + kStretch < p.n_padded ? stretch + kStretch : p.n_padded;
        Floats lowest[Block];
        for (int row = 0; row < Block; ++row) lowest[row] = all(kInfinity);
        for (int64_t at = stretch; at < stop; at += kPanel) {
            score<kTiles, Block, Dim>(keys + at * dim, halves + at, dim, block, sums);
            for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
                for (int row = 0; row < Block; ++row) lowest[row] = least(lowest[row], sums[tile][row]);
        }
        for (int row = 0; row < Block; ++row) {
            const Ints closer = lowest[row] < best[row];
            best[row] = closer ? lowest[row] : best[row];
            where[row] = closer ? all(static_cast<int32_t>(stretch)) : where[row];
        }
    }
    for (int row = 0; row < Block; ++row) {
        const float lowest = least_of(best[row]);
        const int32_t at = least_of(best[row] == all(lowest) ? where[row] : all(kNoKey));
        p.codes[(first + row) * p.n_heads + head] = first_at<Dim, Block>(p, keys, halves, block + row, at, lowest);
    }
}

// The best scores of one sample, ascending; equal scores stay in the order of keys.
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

// A score that at least `m` keys do not exceed, if each lane holds the lowest score of different keys: the greatest of m lanes,
// or of a few more, into which the others are folded.
template <int By = kLanes / 2>
float reached_by(Floats lowest, int m) {
    if constexpr (By > 0)
        if (m <= By) return reached_by<By / 2>(least(lowest, exchanged<By>(lowest, std::make_integer_sequence<int, kLanes>())), m);
    return m <= kLanes ? greatest_of(lowest) : kInfinity;
}

// Adds to a shortlist the scores that can be among the nearest; the vectors of a sample are `Block` apart.
template <int Block>
void shorten(const Problem &p, const Floats *scores, int64_t start, int64_t stop, Floats lowest, Shortlist &list) {
    const float bound = reached_by(lowest, p.n_selected);
    float worst = list.scores[p.n_selected - 1];
    for (int64_t at = start; at < stop; at += kPanel) {
        Bits bits;
        for (int tile = 0; tile < kTiles; ++tile)
            bits.add(scores[((at - start) / kLanes + tile) * Block] <= all(bound < worst ? bound : worst), tile);
        for (uint32_t left = bits.all(); left; left &= left - 1) {
            const int key = __builtin_ctz(left);
            const float score = scores[(at - start + key) / kLanes * Block][key % kLanes];
            if (!(score < worst)) continue;
            list.offer(score, static_cast<int32_t>(at + key));
            worst = list.scores[p.n_selected - 1];
        }
    }
}

// Several keys: scores are kept until the lowest of each lane give a bound that few scores meet.
template <int Block, int Dim>
void nearest_few(const Problem &p, int64_t head, int64_t first, Workspace &space) {
    const int dim = Dim ? Dim : p.dim;
    float *block = space.samples.data();
    centre<Block>(p, head, first, dim, block);
    const float *keys = p.keys + head * dim * p.n_padded, *halves = p.halves + head * p.n_padded;
    Shortlist lists[Block];
    Floats lowest[Block], *scores = space.scores.data();
    for (int64_t start = 0; start < p.n_padded; start += kReach) {
        const int64_t stop = start + kReach < p.n_padded ? start + kReach : p.n_padded;
        for (int row = 0; row < Block; ++row) lowest[row] = all(kInfinity);
        for (int64_t at = start; at < stop; at += kPanel) {
            Floats sums[kTiles][Block];
            score<kTiles, Block, Dim>(keys + at * dim, halves + at, dim, block, sums);
            for (int tile = 0; tile < kTiles; ++tile)
#pragma GCC unroll 16
                for (int row = 0; row < Block; ++row) {
                    lowest[row] = least(lowest[row], sums[tile][row]);
                    scores[((at - start) / kLanes + tile) * Block + row] = sums[tile][row];
                }
        }
        for (int row = 0; row < Block; ++row) shorten<Block>(p, scores + row, start, stop, lowest[row], lists[row]);
    }
    for (int row = 0; row < Block; ++row) {
        uint16_t *codes = p.codes + ((first + row) * p.n_heads + head) * p.n_selected;
        int found = 0;
        for (; found < p.n_selected && lists[row].codes[found] >= 0; ++found)
            codes[found] = static_cast<uint16_t>(lists[row].codes[found]);
        for (int64_t key = 0; found < p.n_selected && key < p.n_keys; ++key)  // unusable keys fill the end of the list
            if (halves[key] == kInfinity) codes[found++] = static_cast<uint16_t>(key);
    }
}

template <int Dim>
void scan_head(const Problem &p, int64_t head, int64_t start, int64_t stop, Workspace &space) {
    for_blocks<kBlock>(start, stop, [&](auto size, int64_t row) {
        if (p.n_selected == 1) nearest_one<size, Dim>(p, head, row, space);
        else nearest_few<size, Dim>(p, head, row, space);
    });
}

typedef void (*Scan)(const Problem &, int64_t, int64_t, int64_t, Workspace &);

template <int Dim = kLargestDim>
Scan choose_scan(int dim) {
    if constexpr (Dim == 0) return scan_head<0>;
    else return dim == Dim ? scan_head<Dim> : choose_scan<Dim - 1>(dim);
}

constexpr int64_t kChunkRows = 1920;  // rows of one task: a multiple of every block, so that blocks are the same in all tasks

// Calls `work(head, start, stop)` for this thread's share of the heads of every chunk of rows.
template <class Work>
void for_tasks(const Problem &p, int64_t thread, int64_t n_threads, Work work) {
    const int64_t chunks = (p.n_rows + kChunkRows - 1) / kChunkRows;
    for (int64_t task = thread; task < p.n_heads * chunks; task += n_threads) {
        const int64_t start = task / p.n_heads * kChunkRows;
        work(task % p.n_heads, start, start + kChunkRows < p.n_rows ? start + kChunkRows : p.n_rows);
    }
}

void scan(const Problem &p, int64_t thread, int64_t n_threads) {
    const Scan run = choose_scan(p.dim);
    Workspace space(p);
    for_tasks(p, thread, n_threads, [&](int64_t head, int64_t start, int64_t stop) { run(p, head, start, stop, space); });
}

}  // namespace
