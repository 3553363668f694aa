// Which rows belong to which step, and how steps and rows are shared out. Nothing here depends on the data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "contract.hpp"

namespace bptt {

// Where the rows of each step lie in an array of N rows.
class Rows {
public:
    explicit Rows(const Steps& steps) : steps_(steps) {
        if (!steps.batch_sizes) return;
        offsets_.reserve(steps.T + 1);
        offsets_.push_back(0);
        for (std::size_t t = 0; t < steps.T; ++t)
            offsets_.push_back(offsets_.back() + static_cast<std::size_t>(steps.batch_sizes[t]));
    }

    std::size_t before(std::size_t t) const { return steps_.batch_sizes ? offsets_[t] : t * steps_.B; }
    std::size_t of(std::size_t t) const { return before(t + 1) - before(t); }
    std::size_t all() const { return before(steps_.T); }

private:
    Steps steps_;
    std::vector<std::size_t> offsets_;
};

// Most rows that a member multiplies with weights together: enough that those which are fetched serve several tiles.
constexpr std::size_t rows_of_a_band = 28;

// [first, last)
struct Range {
    std::size_t first, last;
};

// One of `parts` nearly equal parts of 0, 1, ..., count-1.
inline Range part(std::size_t count, std::size_t index, std::size_t parts) {
    return {count * index / parts, count * (index + 1) / parts};
}

using Block = Range;  // of steps

// Cuts T steps into blocks of at least `rows` rows, except the last, from the end of time in which they are walked.
inline std::vector<Block> blocks_of(const Rows& rows, std::size_t T, std::size_t at_least, bool from_the_end) {
    std::vector<Block> blocks;
    std::size_t done = 0;
    while (done < T) {
        std::size_t begin = done, sum = 0;
        while (done < T && sum < at_least) {
            sum += rows.of(from_the_end ? T - 1 - done : done);
            ++done;
        }
        blocks.push_back(from_the_end ? Block{T - done, T - begin} : Block{begin, done});
    }
    return blocks;
}

// How a sweep is shared: each member takes some rows through all steps and never waits, or all rows of some columns and
// waits for the others at every step.
struct Shares {
    std::size_t count;
    bool of_columns;
};

// Chooses the way with the fewest cycles for one step of the busiest member. The products of a step read so many
// registers of weights; columns lie in panels, and members that share them wait so often. A register must be loaded for
// each multiply-add of a row, or once for several rows: with few rows the loads decide, and they are slow unless the
// share of the weights stays in the first-level cache.
inline Shares share_out(std::size_t rows, std::size_t registers, std::size_t panels, std::size_t panel_bytes,
                        std::size_t waits, std::size_t members) {
    constexpr double first_level_cache = 24 << 10, cycles_to_wait = 1500;
    const auto share = [members](std::size_t items) { return (items + members - 1) / members; };
    const auto cycles = [&](std::size_t share_rows, double part_of_registers) {
        const double own = static_cast<double>(registers) * part_of_registers;
        const double load = own * static_cast<double>(panel_bytes) <= first_level_cache ? 1 : 2.3;
        return own * std::max(static_cast<double>(share_rows), load);
    };
    const double by_rows = cycles(share(rows), 1);
    const double by_columns = cycles(rows, static_cast<double>(share(panels)) / static_cast<double>(panels)) +
                              cycles_to_wait * static_cast<double>(waits);
    if (by_columns < by_rows) return {std::min(members, panels), true};
    return {std::max<std::size_t>(1, std::min(members, rows)), false};
}

// How many threads work of so many floating-point operations is worth: waking one costs some microseconds.
inline std::size_t team_for(double operations, std::size_t threads) {
    constexpr double worth_waking_one = 1e6;
    return std::max<std::size_t>(1, std::min(threads, static_cast<std::size_t>(operations / worth_waking_one)));
}

}  // namespace bptt
