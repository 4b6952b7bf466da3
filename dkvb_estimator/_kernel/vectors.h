// Vectors of floats, the sum that all searches and products share, and threads.
//
// Vectors run over keys, or over the columns of a projection, and a block of rows shares every loaded vector. The number of
// coordinates is a template argument, because the same code with a run-time loop is four times slower.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kBlock = 8, kTiles = 2, kFewer = 4;
#elif defined(__AVX2__)
constexpr int kLanes = 8, kBlock = 4, kTiles = 2, kFewer = 4;
#else
constexpr int kLanes = 4, kBlock = 4, kTiles = 2, kFewer = 4;
#endif
constexpr int kPanel = kTiles * kLanes;  // keys that are stored and scored together
constexpr int kLargestDim = 16;  // of the templates; more coordinates use a loop that is not unrolled

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kNoKey = std::numeric_limits<int32_t>::max();

template <class Vector = Floats>
inline Vector load(const void *from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline Floats all(float value) { return value - Floats{}; }
inline Ints all(int32_t value) { return value - Ints{}; }

template <class Vector>
inline Vector least(Vector one, Vector other) { return other < one ? other : one; }
template <class Vector>
inline Vector greatest(Vector one, Vector other) { return one < other ? other : one; }

template <int By, class Vector, int... Lane>
inline Vector exchanged(Vector v, std::integer_sequence<int, Lane...>) {
    return __builtin_shufflevector(v, v, (Lane ^ By)...);
}

// Combines each lane with the one `By` away, then with those half as far, and so on, down to neighbouring lanes.
template <int By, class Vector, class Join>
inline Vector folded(Vector v, Join join) {
    if constexpr (By == 0) return v;
    else return folded<By / 2>(join(v, exchanged<By>(v, std::make_integer_sequence<int, kLanes>())), join);
}

template <class Vector>
inline auto least_of(Vector v) { return folded<kLanes / 2>(v, least<Vector>)[0]; }
inline float greatest_of(Floats v) { return folded<kLanes / 2>(v, greatest<Floats>)[0]; }

inline Ints lane_numbers() {
    Ints numbers;
    for (int lane = 0; lane < kLanes; ++lane) numbers[lane] = lane;
    return numbers;
}

// Collects comparisons of up to 32 lanes as bits.
struct Bits {
    Ints found = {};
    void add(const Ints &mask, int vector) { found |= mask & (1 << (lane_numbers() + vector * kLanes)); }
    uint32_t all() const {
        return static_cast<uint32_t>(folded<kLanes / 2>(found, [](Ints one, Ints other) { return one | other; })[0]);
    }
};

// Calls `work(size, row)` for every block of rows from start to stop, the largest first.
template <int Largest, class Work>
void for_blocks(int64_t start, int64_t stop, Work work) {
    int64_t row = start;
    for (; row + Largest <= stop; row += Largest) work(std::integral_constant<int, Largest>(), row);
    for (; row + kFewer <= stop; row += kFewer) work(std::integral_constant<int, kFewer>(), row);
    for (; row < stop; ++row) work(std::integral_constant<int, 1>(), row);
}

// Scores a block of samples against a few vectors of keys; coordinate u of a sample is at u * Stride + row.
template <int Tiles, int Block, int Dim, int Stride = Block>
inline void score(const float *keys, const float *halves, int dim, const float *block, Floats (*sums)[Block]) {
    // The compiler must not know that the block stays the same from tile to tile. It would otherwise broadcast every coordinate to
    // a vector once, run out of registers, and read the vectors back from memory, which takes sixteen times the bytes.
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

// Calls `work(thread)` in that many threads, including this one.
template <class Work>
void in_threads(int n_threads, Work work) {
    std::vector<std::thread> others;
    for (int thread = 1; thread < n_threads; ++thread) others.emplace_back(work, thread);
    work(0);
    for (std::thread &other : others) other.join();
}

}  // namespace
