// The engine walks through all steps of a layer and runs a program at each. This is what every part of it agrees on;
// the program is in program.hpp, what a walk needs in plan.hpp, the walk in sweep.cpp, the arithmetic in kernels.hpp,
// the threads in team.hpp.
//
//   T time steps   B rows of the batch   I inputs   H hidden units   N rows of all steps together (dense: T B)
//
// Every array belongs to the caller and outlives the call. Arrays are row-major and contiguous; weights and their
// gradients may have any strides, so torch's transposed weights are read and written where they lie.
//
// Step t holds `batch_sizes[t]` rows, which follow those of step t-1 in memory. Row r of step t continues row r of step
// t-1; with `reverse`, time runs T..1 and row r of step t continues row r of step t+1 where there is one.
//
// Results are the same to the bit for any number of threads, and the states and cotangents of a row do not depend on
// which rows share its batch: every element of a matrix product is a chain of multiply-adds in a fixed order, cut at
// the same places.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bptt {

struct Steps {
    std::size_t T;
    std::size_t B;                    // rows of h0
    const std::int64_t* batch_sizes;  // [T], non-increasing, at most B; null: B rows at every step
    bool reverse;
};

// A matrix in memory; strides in elements.
template <class Real>
struct Matrix {
    Real* at;
    std::ptrdiff_t row_stride, column_stride;
};

// Sums over all steps, which gradients of parameters are, are taken over blocks of time, cut from where the walk
// begins, each the fewest steps with at least so many rows. So a long sequence may be walked in several calls, those
// after the first accumulating: where all but the last walk whole blocks, the sums are those of a single call to the
// bit. H: the columns of the widest state.
std::size_t rows_of_a_block(std::size_t H);

// Asks the system for large pages, where it gives them, for memory that nobody has written yet: the first write to each
// small page costs more than all that are to come.
void prefer_large_pages(void* at, std::size_t bytes);

// The instruction set in use: the best this processor has, or the one the environment variable BPTT_ISA names. Throws
// std::runtime_error if that is unknown, not in this build, or beyond this processor.
const char* instruction_set();

}  // namespace bptt
