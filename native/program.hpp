// A cell as a program of vector operations, made from its equations (bptt/engine/programs.py), one for each way; and
// the sweep that runs it at every step. Nothing here knows what a cell computes.
//
// A slot holds one value of a step for the rows that a member has at hand. It is as wide as one of the sizes of the
// sheet; with size 0 it holds one number for each row, which stands for all columns.
#pragma once

#include <cstddef>
#include <vector>

#include "contract.hpp"
#include "operation.hpp"

namespace bptt {

// Of an operation of entries or rows, `from` are slots or, as -1 - k, vector k, which is the same for all rows.
struct Instruction {
    Operation operation;
    int to;
    int from[4];
};

// Slots of a group lie panel by panel beside each other, so that one product makes all of them.
struct Slot {
    int size, group, place;  // place: which of its group
};

// Matrices whose products with one left factor are a group.
struct Weight {
    int rows, columns;  // sizes
    std::vector<int> matrices;
};

struct Factors {
    int left;  // slot
    int weight;
};

// A slot that lasts from step to step. Arrays of rows are [B, width].
struct Carried {
    int slot;
    int first;  // array of rows that it begins with; -1: zero
    int next;   // slot that it takes over after each step; -1: it stays
    int last;   // array of rows that receives what it ends with; -1: none
};

struct Program {
    std::vector<Slot> slots;
    std::vector<int> groups;  // of each group the number of its slots, which follow each other
    std::vector<Instruction> instructions;
    std::vector<Weight> weights;
    std::vector<std::vector<Factors>> products;  // each a sum
    std::vector<Carried> carried;
    std::vector<int> vectors, arrays, rows;  // their sizes
    int matrices, sizes;

    // Throws std::invalid_argument where a number points nowhere or sizes do not belong together.
    void check() const;
};

template <class Real>
struct Sweep {
    const Program& program;
    Steps steps;
    bool back;                   // from the last step to the first
    const std::size_t* sizes;    // sizes[0] is 1
    const Matrix<Real>* arrays;  // [N, width], columns side by side. Null: zero where it is loaded, and not stored
    Real* const* rows;           // [B, width]; null likewise
    const Real* const* vectors;
    const Matrix<const Real>* matrices;
};

// The program at every step. `threads` is the most that may be used; results do not depend on it.
template <class Real>
void run(const Sweep<Real>&, std::size_t threads);

}  // namespace bptt
