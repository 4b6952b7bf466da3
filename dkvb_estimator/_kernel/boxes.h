// Search for heads with few coordinates that scores only keys that may be nearest.
//
// Each panel holds neighbouring keys: keys are halved along their widest side until each part fits into a panel, and the
// bounding box of each panel is stored. A box that is farther from a sample than the best key so far cannot hold a nearer key.
// Scores are the same sums as in a scan, so both searches give the same codes. With eight coordinates, a search looks into a
// fifth of the boxes; with many more, it would look into nearly all, and a scan is faster.

#pragma once

#include <algorithm>
#include <cmath>

#include "scan.h"

namespace {

struct Boxes {
    const float *sides;    // c, padded panels / kLanes, d, 2, kLanes: lower and upper sides of each box; infinite for padding
    const int32_t *names;  // c, padded j: the key at each place; kNoKey for padding
    const float *reaches;  // c: length of the longest key
};

constexpr int kGroup = 32;  // boxes that are compared at once
constexpr int64_t kBoxRows = 256;  // rows of one task
constexpr int64_t kFewRows = 8;    // rows too few for sorting by the boxes that they look into

inline int64_t padded_panels(int64_t n_panels) { return (n_panels + kGroup - 1) / kGroup * kGroup; }

// Memory of a task: samples, the best key of each, and the samples that look into each box.
struct BoxTask {
    std::vector<float> rows;
    std::vector<Floats> best, away;
    std::vector<Ints> where;
    std::vector<uint8_t> visitors;
    std::vector<int> counts;

    BoxTask(int64_t n_panels, int dim)
        : rows(kBoxRows * dim), best(kBoxRows), away(padded_panels(n_panels) / kLanes), where(kBoxRows),
          visitors(n_panels * kBoxRows), counts(n_panels) {}
};
static_assert(kBoxRows <= 256, "a visitor is a byte");

// The keys of one panel and one head.
template <int Dim>
struct Panel {
    Floats keys[Dim][kTiles], halves[kTiles];
    Ints names[kTiles];

    Panel(const Problem &p, const Boxes &b, int64_t head, int64_t panel) {
        const int64_t at = head * p.n_padded + panel * kPanel;
        for (int tile = 0; tile < kTiles; ++tile) {
            halves[tile] = load(p.halves + at + tile * kLanes);
            names[tile] = load<Ints>(b.names + at + tile * kLanes);
            for (int u = 0; u < Dim; ++u) keys[u][tile] = load(p.keys + at * Dim + u * kPanel + tile * kLanes);
        }
    }

    // Scores all keys, and keeps the best score and its name in each lane. Names ascend from tile to tile.
    inline void look(const float *row, Floats &best, Ints &where) const {
        Floats sums[kTiles];
        for (int tile = 0; tile < kTiles; ++tile) sums[tile] = halves[tile];
#pragma GCC unroll 16
        for (int u = 0; u < Dim; ++u)
            for (int tile = 0; tile < kTiles; ++tile) sums[tile] -= all(row[u]) * keys[u][tile];
        const Ints name = sums[0] <= sums[1] ? names[0] : names[1];
        const Floats lowest = least(sums[0], sums[1]);
        const Ints closer = (lowest < best) | ((lowest == best) & (name < where));
        best = least(best, lowest);
        where = closer ? name : where;
    }
};
static_assert(kTiles == 2, "look compares two tiles");

// The boxes that a sample looks into first: the nearest one, and the nearest one in the other lanes.
struct Two {
    int64_t nearest, next;
};

// Squared distances of a sample to every box, into `away`.
template <int Dim>
Two measure(const float *row, const float *sides, int64_t n_vectors, Floats *away) {
    Floats lowest = all(kInfinity);
    Ints which = {};
    for (int64_t v = 0; v < n_vectors; ++v, sides += Dim * 2 * kLanes) {
        Floats sum = {};
#pragma GCC unroll 16
        for (int u = 0; u < Dim; ++u) {
            const Floats at = all(row[u]), inside = greatest(at, load(sides + 2 * u * kLanes));
            const Floats off = least(inside, load(sides + (2 * u + 1) * kLanes)) - at;
            sum += off * off;
        }
        away[v] = sum;
        which = sum < lowest ? all(static_cast<int32_t>(v)) : which;
        lowest = least(lowest, sum);
    }
    const Ints boxes = which * kLanes + lane_numbers();
    const auto nearest_of = [&boxes](Floats distances) {
        return least_of(distances == all(least_of(distances)) ? boxes : all(kNoKey));
    };
    const int32_t nearest = nearest_of(lowest);
    return {nearest, nearest_of(boxes == all(nearest) ? all(kInfinity) : lowest)};
}

// Calls `look(box)` for every box within `limit`, except two. NaN, from sums that overflowed, counts as within.
template <class Look>
inline void for_boxes(const Floats *away, int64_t n_panels, Two seen, float limit, Look look) {
    for (int64_t first = 0; first < n_panels; first += kGroup) {
        Bits bits;
        for (int v = 0; v < kGroup / kLanes; ++v) bits.add(~(away[first / kLanes + v] > all(limit)), v);
        uint32_t left = bits.all();
        for (int64_t box : {seen.nearest, seen.next})
            if (box / kGroup * kGroup == first) left &= ~(1u << box % kGroup);
        if (n_panels - first < kGroup) left &= (1u << (n_panels - first)) - 1;
        for (; left; left &= left - 1) look(first + __builtin_ctz(left));
    }
}

template <int Dim>
void search_boxes(const Problem &p, const Boxes &b, int64_t head, int64_t start, int64_t stop, BoxTask &task) {
    const int64_t n_panels = p.n_padded / kPanel, n_vectors = padded_panels(n_panels) / kLanes;
    const float *sides = b.sides + head * n_vectors * Dim * 2 * kLanes;
    const float roundoff = 4 * (Dim + 4) * std::numeric_limits<float>::epsilon();
    std::fill(task.counts.begin(), task.counts.end(), 0);
    for (int row = 0; row < stop - start; ++row) {
        float *sample = task.rows.data() + row * Dim, squared = 0;
        const float *from = p.heads + ((start + row) * p.n_heads + head) * Dim;
        for (int u = 0; u < Dim; ++u) {
            sample[u] = from[u] - p.centres[head * Dim + u];
            squared += sample[u] * sample[u];
        }
        const Two seen = measure<Dim>(sample, sides, n_vectors, task.away.data());
        Floats &best = task.best[row] = all(kInfinity);
        Ints &where = task.where[row] = all(kNoKey);
        for (int64_t box : {seen.nearest, seen.next})
            if (box < n_panels) Panel<Dim>(p, b, head, box).look(sample, best, where);
        // A score is half the squared distance minus half the squared length of the sample; this bounds the rounding of both.
        const float reach = std::sqrt(squared) + b.reaches[head];
        const float limit = 2 * least_of(best) + squared + roundoff * reach * reach + std::numeric_limits<float>::min();
        if (stop - start < kFewRows)
            for_boxes(task.away.data(), n_panels, seen, limit, [&](int64_t box) { Panel<Dim>(p, b, head, box).look(sample, best, where); });
        else
            for_boxes(task.away.data(), n_panels, seen, limit, [&](int64_t box) { task.visitors[box * kBoxRows + task.counts[box]++] = static_cast<uint8_t>(row); });
    }
    for (int64_t box = 0; box < n_panels; ++box) {
        if (!task.counts[box]) continue;
        const Panel<Dim> panel(p, b, head, box);
        const uint8_t *rows = task.visitors.data() + box * kBoxRows;
        for (int i = 0; i < task.counts[box]; ++i) panel.look(task.rows.data() + rows[i] * Dim, task.best[rows[i]], task.where[rows[i]]);
    }
    for (int row = 0; row < stop - start; ++row) {
        const Floats lowest = all(least_of(task.best[row]));
        const int32_t name = least_of(task.best[row] == lowest ? task.where[row] : all(kNoKey));
        p.codes[(start + row) * p.n_heads + head] = static_cast<uint16_t>(name < p.n_keys ? name : 0);
    }
}

typedef void (*BoxSearch)(const Problem &, const Boxes &, int64_t, int64_t, int64_t, BoxTask &);

template <int Dim = kLargestDim>
BoxSearch choose_box_search(int dim) {
    if constexpr (Dim == 1) return search_boxes<1>;
    else return dim == Dim ? search_boxes<Dim> : choose_box_search<Dim - 1>(dim);
}

void look_into_boxes(const Problem &p, const Boxes &b, int64_t thread, int64_t n_threads) {
    const BoxSearch run = choose_box_search(p.dim);
    BoxTask task(p.n_padded / kPanel, p.dim);
    for_tasks(p, thread, n_threads, [&](int64_t head, int64_t start, int64_t stop) {
        for (; start < stop; start += kBoxRows) run(p, b, head, start, std::min(start + kBoxRows, stop), task);
    });
}

}  // namespace
