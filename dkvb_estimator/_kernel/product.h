// Projection of rows into heads: the same sum over features in order, starting at zero.

#pragma once

#include "vectors.h"

namespace {

struct Product {
    const float *rows;    // n, f
    const float *panels;  // columns / kPanel, f, kPanel: the negated projection, because scores subtract
    float *heads;         // n, columns
    int64_t n_rows, n_columns;
    int n_features;
};

// Multiplies a block of rows, with features first in `block`, by one panel.
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

constexpr int64_t kProductRows = 128;  // rows of one task: with one panel they fit into the L2 cache of a core

void multiply(const Product &p, int64_t thread, int64_t n_threads) {
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

}  // namespace
