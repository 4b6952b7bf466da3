// Arranges the keys of each head in boxes, and estimates how many boxes a sample looks into.

#pragma once

#include "boxes.h"

namespace {

struct Arrangement {
    const float *keys;    // c, j, d: centred
    const float *halves;  // c, j: infinite for keys that may not be selected
    int32_t *names;       // this and the rest are outputs: see Boxes
    float *sides, *reaches;
    int64_t n_heads, n_keys, n_padded;
    int dim;
};

// Halves keys along their widest side until each part fits into a panel, in which names ascend. Coordinates are copied next to
// names, because those of a key lie far apart in memory.
void halve(const float *keys, int dim, int32_t *first, int32_t *last, std::pair<float, int32_t> *beside) {
    const int64_t n_panels = (last - first + kPanel - 1) / kPanel;
    if (n_panels <= 1) return std::sort(first, last);
    int widest = 0;
    float width = -1;
    for (int u = 0; u < dim; ++u) {
        float low = kInfinity, high = -kInfinity;
        for (const int32_t *name = first; name < last; ++name) {
            const float key = keys[*name * static_cast<int64_t>(dim) + u];
            low = std::min(low, key);
            high = std::max(high, key);
        }
        if (high - low > width) width = high - low, widest = u;
    }
    for (int64_t at = 0; at < last - first; ++at) beside[at] = {keys[first[at] * static_cast<int64_t>(dim) + widest], first[at]};
    const int64_t middle = n_panels / 2 * kPanel;
    std::nth_element(beside, beside + middle, beside + (last - first));
    for (int64_t at = 0; at < last - first; ++at) first[at] = beside[at].second;
    halve(keys, dim, first, first + middle, beside);
    halve(keys, dim, first + middle, last, beside);
}

// Side `high` (0 or 1) of a box along a coordinate.
inline float &side(const Arrangement &a, int64_t head, int64_t box, int u, int high) {
    const int64_t vector = head * padded_panels(a.n_padded / kPanel) / kLanes + box / kLanes;
    return a.sides[((vector * a.dim + u) * 2 + high) * kLanes + box % kLanes];
}

// Computes the boxes around keys that may be selected; boxes without such keys are infinitely far away.
void enclose(const Arrangement &a, int64_t head) {
    const int32_t *names = a.names + head * a.n_padded;
    float longest = 0;
    for (int64_t box = 0; box < padded_panels(a.n_padded / kPanel); ++box)
        for (int u = 0; u < a.dim; ++u) side(a, head, box, u, 0) = side(a, head, box, u, 1) = kInfinity;
    for (int64_t at = 0; at < a.n_keys; ++at) {
        const float half = a.halves[head * a.n_keys + names[at]];
        if (half == kInfinity) continue;
        longest = std::max(longest, half);
        for (int u = 0; u < a.dim; ++u) {
            const float key = a.keys[(head * a.n_keys + names[at]) * a.dim + u];
            float &low = side(a, head, at / kPanel, u, 0), &high = side(a, head, at / kPanel, u, 1);
            high = high == kInfinity ? key : std::max(high, key);
            low = std::min(low, key);
        }
    }
    a.reaches[head] = std::sqrt(2 * longest);
}

// Share of the boxes that a sample at the position of a key looks into, without that key.
double looked_into(const Arrangement &a, int64_t head, int64_t place) {
    const int32_t *names = a.names + head * a.n_padded;
    const float *keys = a.keys + head * a.n_keys * a.dim, *sample = keys + names[place] * static_cast<int64_t>(a.dim);
    const int64_t n_boxes = a.n_padded / kPanel, own = place / kPanel * kPanel;
    float nearest = kInfinity;
    for (int64_t at = own; at < std::min(own + kPanel, a.n_keys); ++at) {
        if (at == place || a.halves[head * a.n_keys + names[at]] == kInfinity) continue;
        float squared = 0;
        for (int u = 0; u < a.dim; ++u) {
            const float off = keys[names[at] * static_cast<int64_t>(a.dim) + u] - sample[u];
            squared += off * off;
        }
        nearest = std::min(nearest, squared);
    }
    int64_t looks = 0;
    for (int64_t box = 0; box < n_boxes; ++box) {
        float squared = 0;
        for (int u = 0; u < a.dim; ++u) {
            const float off = std::min(std::max(sample[u], side(a, head, box, u, 0)), side(a, head, box, u, 1)) - sample[u];
            squared += off * off;
        }
        looks += !(squared > nearest);
    }
    return static_cast<double>(looks) / n_boxes;
}

constexpr int64_t kProbes = 8;  // keys of a head that serve as samples

double arrange(const Arrangement &a, int64_t thread, int64_t n_threads) {
    double looked = 0;
    std::vector<std::pair<float, int32_t>> beside(static_cast<size_t>(a.n_keys));
    for (int64_t head = thread; head < a.n_heads; head += n_threads) {
        int32_t *names = a.names + head * a.n_padded;
        for (int64_t at = 0; at < a.n_padded; ++at) names[at] = at < a.n_keys ? static_cast<int32_t>(at) : kNoKey;
        halve(a.keys + head * a.n_keys * a.dim, a.dim, names, names + a.n_keys, beside.data());
        enclose(a, head);
        for (int64_t probe = 0; probe < kProbes; ++probe) looked += looked_into(a, head, probe * a.n_keys / kProbes);
    }
    return looked / kProbes / a.n_heads;
}

}  // namespace
