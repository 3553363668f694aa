// What a program of a cell (program.hpp) can do.
#pragma once

#include <cstdint>

namespace bptt {

enum class Operation : std::uint8_t {
    // of memory and slots
    load,         // the rows of the step of array from[0]
    previous,     // of array from[0] each row at the step before; where there is none, that of the rows from[1]
    store,        // slot from[0] to the rows of the step of array `to`
    product,      // product number from[0] to the group that begins with slot `to`
    add_product,  // the same, added to what the group holds
    // of a whole row, to one number
    sum,
    mean,
    largest,
    // of one entry each: of a, b, c, d
    copy,
    negative,
    add,
    subtract,
    multiply,
    divide,
    square,
    multiply_add,       // a b + c
    multiply_subtract,  // c - a b
    through_tanh,       // a (1 - b²)
    through_sigmoid,    // a b (1 - b)
    tanh,
    sigmoid,
    relu,
    exp,
    log,
    sqrt,
    softplus,
    abs,
    sign,
    larger,
    smaller,
    where_positive,  // a unless b <= 0, then 0
    where_at_least,  // a where b >= c, else 0
    where_below,     // a where b < c, else 0
    where_inside,    // a where c <= b <= d, else 0
};

constexpr bool is_product(Operation operation) {
    return operation == Operation::product || operation == Operation::add_product;
}
constexpr bool is_of_rows(Operation operation) {
    return operation >= Operation::sum && operation <= Operation::largest;
}
constexpr bool is_of_entries(Operation operation) { return operation >= Operation::copy; }

// How many of a, b, c, d it takes, or, of memory, of its own numbers.
constexpr int arity(Operation operation) {
    switch (operation) {
        case Operation::previous:
        case Operation::add:
        case Operation::subtract:
        case Operation::multiply:
        case Operation::divide:
        case Operation::larger:
        case Operation::smaller:
        case Operation::through_tanh:
        case Operation::through_sigmoid:
        case Operation::where_positive: return 2;
        case Operation::multiply_add:
        case Operation::multiply_subtract:
        case Operation::where_at_least:
        case Operation::where_below: return 3;
        case Operation::where_inside: return 4;
        default: return 1;
    }
}

}  // namespace bptt
