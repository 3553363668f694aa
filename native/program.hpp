// A cell as a program of vector operations, made from its equations (bptt/engine/programs.py), one for each way; and
// the sweep that runs it at every step. Nothing here knows what a cell computes.
//
// A slot holds one value of a step for the rows that a member has at hand. It is as wide as one of the sizes of the
// sheet; with size 0 it holds one number for each row, which stands for all columns.
//
// Time is walked block by block. Before the steps of a block what needs no state is made for all of them (Ahead); after
// them come the sums over their rows (Gradient) and what needs no state on the way back (After), while the values that
// these read are in the cache. Such values are in groups `of_block`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "contract.hpp"
#include "operation.hpp"

namespace bptt {

// Of an operation of entries or rows, `from` are slots or, as -1 - k, vector k, which is the same for all rows.
struct Instruction {
    Operation operation;
    int to;
    int from[4];
    int also = -1;  // array that the result goes to as well, for which no store is left
};

struct Slot {
    int size, group, place;  // place: which of its group
};

// Slots that follow each other; their panels lie beside each other, so that one product makes all of them.
struct Group {
    int count;
    bool of_block;  // has room for the rows of all steps of a block; else for those of a step
};

// A matrix of the caller, and whether it lies transposed: as [columns, rows]. It is one of `blocks` of the same shape
// that lie one after the other in an array.
struct Given {
    int rows, columns;  // sizes
    bool is_transposed;
    int block, blocks;
};

// A vector of the caller, one of `blocks`.
struct Vector {
    int size;
    int block, blocks;
};

// Matrices whose products with one left factor are a group.
struct Weight {
    int rows, columns;  // sizes
    std::vector<int> matrices;
};

// A product with a weight: of a slot or, ahead, of an array.
struct Factors {
    int left;
    int weight;
};

// Sums of vectors and products with arrays in the group that begins with slot `to`, before the steps of a block.
struct Ahead {
    int to;
    std::vector<std::vector<int>> vectors;  // of each slot of the group
    std::vector<Factors> terms;
};

// A slot that lasts from step to step. Arrays of rows are [B, width].
struct Carried {
    int slot;
    int first;  // array of rows that it begins with; -1: zero
    int next;   // slot that it takes over after each step; -1: it stays
    int last;   // array of rows that receives what it ends with; -1: none
};

// A vector that holds one number: the value or, with a size, how many entries that has.
struct Number {
    double value;
    int size;  // or -1
};

struct Array {
    int size;
    bool of_block;  // room of the engine's own for the steps of a block; else the caller's, for all steps
};

// result `to` += leftᵀ right over the rows of all steps; without left the sum of the rows of `right`.
struct Gradient {
    int left;     // array, or -1
    bool before;  // each row of it at the step before; where there is none, that of the rows `first`
    int first;    // array of rows, or -1: zero
    int right;    // slot of_block
    int to;
};

// An array of the caller that receives a sum: a matrix or, with rows -1, a vector.
using Result = Given;

// Array `to` of all steps is a sum of products of slots of_block.
struct After {
    int to;
    std::vector<Factors> terms;
};

// Instructions that are run chunk by chunk of columns, all as wide; none reads across what another makes.
struct Segment {
    std::size_t first, last;
    int size;
    bool waits;  // for other members, where they share columns
};

struct Program {
    bool back;  // from the last step to the first
    int sizes;  // how many the sheet has
    std::vector<Slot> slots;
    std::vector<Group> groups;
    std::vector<Instruction> instructions;
    std::vector<Weight> weights;
    std::vector<std::vector<Factors>> products;  // each a sum
    std::vector<Ahead> ahead;
    std::vector<Carried> carried;
    std::vector<Gradient> gradients;
    std::vector<After> after;
    std::vector<Number> numbers;  // the first of the vectors
    std::vector<Vector> vectors;  // those that follow
    std::vector<Array> arrays;
    std::vector<int> rows;  // of each array of rows the size
    std::vector<Given> matrices;
    std::vector<Result> results;

    int size_of_vector(int vector) const {
        const int given = vector - static_cast<int>(numbers.size());
        return given < 0 ? 0 : vectors[given].size;
    }

    std::vector<Segment> segments;  // all instructions
    std::vector<int> only_loaded;   // of a slot the array whose rows entries may read in its place, or -1

    int size_of_result(const Instruction& i) const {
        return slots[i.operation == Operation::store ? i.from[0] : i.to].size;
    }

    // Makes the last two, and moves stores into what makes their numbers. Throws std::invalid_argument where a number
    // points nowhere or sizes do not belong together.
    void prepare();
};

template <class Real>
struct Sweep {
    const Program& program;
    Steps steps;
    const std::size_t* sizes;           // sizes[0] is 1
    Real* const* arrays;                // [N, width]; null: zero where it is loaded, and not stored
    const std::int64_t* const* tokens;  // [N] or null: in the place of an array that stands left of matrices alone
    Real* const* rows;                  // [B, width]; null as for arrays
    const Real* const* vectors;         // those that are no numbers
    const Matrix<const Real>* matrices;
    const Matrix<Real>* results;  // null: not asked for
    bool accumulate;              // results go on from what they hold
};

// The program at every step. `threads` is the most that may be used, the caller's included; results do not depend on
// it. Throws std::out_of_range for a token outside of its matrix, std::invalid_argument for tokens where only numbers
// can stand.
template <class Real>
void run(const Sweep<Real>&, std::size_t threads);

}  // namespace bptt
