// Search for large batches and heads with one, two or three coordinates.
//
// The space of a head is divided into 64 cells, and each lists the keys that can be nearest to a sample in it: about sixteen of
// 256 keys with two coordinates (see divide.h). Samples are sorted by cell, and vectors run over samples instead of keys, which
// needs no minimum across lanes. Scores are the same sums as in a scan, so both searches give equal codes.

#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "scan.h"

namespace {

constexpr int kGridDims = 3;
constexpr int kCells = 64;          // samples outside belong to one more cell, which lists all keys
constexpr int kTogether = 8;        // heads of one task: with two coordinates they fill a cache line
constexpr int64_t kGridRows = 512;  // rows of one task

constexpr float kLargestReach = 1e18f;  // of keys: half squares, and products with samples in a cell, stay finite

constexpr int parts_of(int dim) { return dim == 1 ? 64 : dim == 2 ? 8 : 4; }  // per coordinate

struct Grid {
    const float *heads;     // n, c, d
    const float *keys;      // c, j, d: centred
    const float *halves;    // c, j: half squared lengths; infinite for keys that may not be selected
    const float *centres;   // c, d
    const float *cuts;      // c, d, parts + 1: ascending; a part starts at its cut and ends before the next
    const int64_t *starts;  // c * kCells + 1: start of the list of each cell in names
    const uint16_t *names;  // of keys that can be nearest, ascending
    uint16_t *codes;        // n, c
    int64_t n_rows, n_heads, n_keys;
};

// Memory of a task: samples of its heads, and those of one head sorted by cell. Vectors may reach past the last sample.
template <int Dim>
struct GridTask {
    static constexpr int64_t kRoom = kGridRows + 2 * 16;
    alignas(64) float samples[kTogether][Dim][kRoom] = {}, sorted[Dim][kRoom] = {};
    alignas(64) int32_t cells[kRoom], found[kRoom];
    int32_t places[kRoom], ends[kCells + 1];
    uint16_t codes[kGridRows][kTogether];
    std::vector<uint16_t> everyone;  // names of all keys

    explicit GridTask(int64_t n_keys) : everyone(n_keys) { std::iota(everyone.begin(), everyone.end(), uint16_t{0}); }
};

// The cell of every sample of a head; NaN is outside all cells.
template <int Dim>
void locate(const float *cuts, const float (*samples)[GridTask<Dim>::kRoom], int64_t n_rows, int32_t *cells) {
    constexpr int parts = parts_of(Dim);
    for (int64_t row = 0; row < n_rows; row += kLanes) {
        Ints cell = {}, inside = all(-1);
        for (int u = 0; u < Dim; ++u) {
            const Floats at = load(samples[u] + row);
            const float *cut = cuts + u * (parts + 1);
            inside &= (at >= all(cut[0])) & (at < all(cut[parts]));
            cell *= parts;
            for (int part = 1; part < parts; ++part) cell -= at >= all(cut[part]);
        }
        cell = inside ? cell : all(kCells);
        std::memcpy(cells + row, &cell, sizeof cell);
    }
}

// Sorts the samples of a head by cell; each cell ends where the next starts.
template <int Dim>
void sort_by_cell(const float (*samples)[GridTask<Dim>::kRoom], int64_t n_rows, GridTask<Dim> &task) {
    std::fill(task.ends, task.ends + kCells + 1, 0);
    for (int64_t row = 0; row < n_rows; ++row) ++task.ends[task.cells[row]];
    int32_t before = 0;
    for (int32_t &end : task.ends) before += std::exchange(end, before);
    for (int64_t row = 0; row < n_rows; ++row) {
        const int32_t place = task.ends[task.cells[row]]++;
        task.places[row] = place;
        for (int u = 0; u < Dim; ++u) task.sorted[u][place] = samples[u][row];
    }
}

// The nearest key of a list for each sample in a few vectors, starting at `at`. The list is read backwards, so that the lowest
// of equally near keys wins.
template <int Vectors, int Dim>
void nearest_of(const float *keys, const float *halves, const uint16_t *first, const uint16_t *last, int32_t at, GridTask<Dim> &task) {
    Floats samples[Vectors][Dim], best[Vectors];
    Ints where[Vectors] = {};  // key 0 if sums overflowed and no key is nearest
    for (int v = 0; v < Vectors; ++v) {
        best[v] = all(kInfinity);
        for (int u = 0; u < Dim; ++u) samples[v][u] = load(task.sorted[u] + at + v * kLanes);
    }
    while (last > first) {
        const int64_t name = *--last;
        for (int v = 0; v < Vectors; ++v) {
            Floats sum = all(halves[name]);
            for (int u = 0; u < Dim; ++u) sum -= samples[v][u] * all(keys[name * Dim + u]);
            where[v] = sum <= best[v] ? all(static_cast<int32_t>(name)) : where[v];
            best[v] = least(best[v], sum);
        }
    }
    std::memcpy(task.found + at, where, sizeof where);
}

template <int Dim>
void search_head(const Grid &g, int64_t head, int64_t n_rows, int together, GridTask<Dim> &task) {
    const auto samples = task.samples[together];
    locate<Dim>(g.cuts + head * Dim * (parts_of(Dim) + 1), samples, n_rows, task.cells);
    sort_by_cell<Dim>(samples, n_rows, task);
    const float *keys = g.keys + head * g.n_keys * Dim, *halves = g.halves + head * g.n_keys;
    const int64_t *starts = g.starts + head * kCells;
    int32_t at = 0;
    for (int cell = 0; cell <= kCells; at = task.ends[cell++]) {
        const bool outside = cell == kCells;
        const uint16_t *first = outside ? task.everyone.data() : g.names + starts[cell];
        const uint16_t *last = outside ? first + g.n_keys : g.names + starts[cell + 1];
        // Results behind the last sample of a cell are overwritten by the next cell.
        for (; at + kLanes < task.ends[cell]; at += 2 * kLanes) nearest_of<2>(keys, halves, first, last, at, task);
        if (at < task.ends[cell]) nearest_of<1>(keys, halves, first, last, at, task);
    }
    for (int64_t row = 0; row < n_rows; ++row) task.codes[row][together] = static_cast<uint16_t>(task.found[task.places[row]]);
}

template <int Dim>
void search_grid(const Grid &g, int64_t thread, int64_t n_threads) {
    const auto room = std::make_unique<GridTask<Dim>>(g.n_keys);
    GridTask<Dim> &task = *room;
    const int64_t groups = (g.n_heads + kTogether - 1) / kTogether, chunks = (g.n_rows + kGridRows - 1) / kGridRows;
    for (int64_t number = thread; number < groups * chunks; number += n_threads) {
        const int64_t head = number % groups * kTogether, start = number / groups * kGridRows;
        const int n_heads = static_cast<int>(std::min<int64_t>(kTogether, g.n_heads - head));
        const int64_t n_rows = std::min(kGridRows, g.n_rows - start);
        for (int64_t row = 0; row < n_rows; ++row) {
            const float *from = g.heads + ((start + row) * g.n_heads + head) * Dim, *centre = g.centres + head * Dim;
            for (int i = 0; i < n_heads; ++i)
                for (int u = 0; u < Dim; ++u) task.samples[i][u][row] = from[i * Dim + u] - centre[i * Dim + u];
        }
        for (int i = 0; i < n_heads; ++i) search_head<Dim>(g, head + i, n_rows, i, task);
        for (int64_t row = 0; row < n_rows; ++row)
            std::memcpy(g.codes + (start + row) * g.n_heads + head, task.codes[row], sizeof(uint16_t) * n_heads);
    }
}

}  // namespace
