// Heads, and the nearest keys of every head: scores and their minimum in one pass, without storing the n x j scores.
//
// score = |key|^2 / 2 - head . key, summed over coordinates in order, so that the result for a row depends neither on its batch
// and position, nor on the number of threads, nor on which other keys are scored.
//
// Built once for each instruction set (see setup.py) and loaded by native.py through ctypes, without Python headers.

#include "arrange.h"
#include "boxes.h"
#include "divide.h"
#include "grid.h"
#include "product.h"
#include "scan.h"

extern "C" {

#if defined(_WIN32)
#define DKVB_API __declspec(dllexport)
#else
#define DKVB_API __attribute__((visibility("default")))
#endif

// Number of keys, or columns of a projection, that are scored together; their total is padded to a multiple of it.
DKVB_API int64_t dkvb_panel() { return kPanel; }

// Number of floats, per coordinate, for the sides of the boxes around the keys of one head.
DKVB_API int64_t dkvb_sides(int64_t n_padded) { return 2 * padded_panels(n_padded / kPanel); }

// The x86-64 level of the most capable build that this processor runs: 4, 3 or 1; 0 on other processors.
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
    in_threads(n_threads, [&](int64_t thread) { scan(p, thread, n_threads); });
}

// One nearest key, among keys that dkvb_arrange arranged; dim is at most 16.
DKVB_API void dkvb_nearest_boxed(const float *heads, const float *keys, const float *halves, const float *centres,
                                 const float *sides, const int32_t *names, const float *reaches, uint16_t *codes,
                                 int64_t n_rows, int64_t n_heads, int64_t n_keys, int64_t n_padded, int dim, int n_threads) {
    const Problem p{heads, keys, halves, centres, codes, n_rows, n_heads, n_keys, n_padded, dim, 1};
    const Boxes b{sides, names, reaches};
    in_threads(n_threads, [&](int64_t thread) { look_into_boxes(p, b, thread, n_threads); });
}

// Returns the share of boxes that a search looks into, estimated from the keys.
DKVB_API double dkvb_arrange(const float *keys, const float *halves, int32_t *names, float *sides, float *reaches,
                             int64_t n_heads, int64_t n_keys, int64_t n_padded, int dim, int n_threads) {
    const Arrangement a{keys, halves, names, sides, reaches, n_heads, n_keys, n_padded, dim};
    std::vector<double> parts(static_cast<size_t>(n_threads));
    in_threads(n_threads, [&](int64_t thread) { parts[static_cast<size_t>(thread)] = arrange(a, thread, n_threads); });
    double all_parts = 0;
    for (double part : parts) all_parts += part;
    return all_parts;
}

// Number of cells of a head; number of parts per coordinate, 0 with too many coordinates.
DKVB_API int64_t dkvb_cells() { return kCells; }
DKVB_API int64_t dkvb_parts(int dim) { return dim <= kGridDims ? parts_of(dim) : 0; }

// Writes the cuts of a grid, and the keys of each cell as bits and as counts.
DKVB_API void dkvb_divide(const float *keys, const float *halves, float *cuts, uint32_t *members, int64_t *counts,
                          int64_t n_heads, int64_t n_keys, int dim, int n_threads) {
    const Division d{keys, halves, cuts, members, counts, n_heads, n_keys};
    const auto run = dim == 1 ? divide<1> : dim == 2 ? divide<2> : divide<3>;
    in_threads(n_threads, [&](int64_t thread) { run(d, thread, n_threads); });
}

// Writes the names of the keys of each cell, as many as counted.
DKVB_API void dkvb_list(const uint32_t *members, uint16_t *names, int64_t n_lists, int64_t n_keys) {
    list_names(members, names, n_lists, words_of(n_keys));
}

// One nearest key, in a grid; dim is at most 3.
DKVB_API void dkvb_nearest_in_grid(const float *heads, const float *keys, const float *halves, const float *centres,
                                   const float *cuts, const int64_t *starts, const uint16_t *names, uint16_t *codes,
                                   int64_t n_rows, int64_t n_heads, int64_t n_keys, int dim, int n_threads) {
    const Grid g{heads, keys, halves, centres, cuts, starts, names, codes, n_rows, n_heads, n_keys};
    const auto run = dim == 1 ? search_grid<1> : dim == 2 ? search_grid<2> : search_grid<3>;
    in_threads(n_threads, [&](int64_t thread) { run(g, thread, n_threads); });
}

DKVB_API void dkvb_project(const float *rows, const float *panels, float *heads, int64_t n_rows, int64_t n_columns, int n_features,
                           int n_threads) {
    const Product p{rows, panels, heads, n_rows, n_columns, n_features};
    in_threads(n_threads, [&](int64_t thread) { multiply(p, thread, n_threads); });
}

// Some linkers require this symbol in every extension module; Python never imports this one.
DKVB_API void *PyInit__kernel() { return nullptr; }
}
