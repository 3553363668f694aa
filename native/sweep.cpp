// The sweep of a program: what is run on which rows and columns, in which order.
#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>

#include "plan.hpp"
#include "team.hpp"

namespace bptt {

// The cotangents and states of a block should stay in the second-level cache, and there must be enough of them to make
// reading and writing the sums once per block cheap.
std::size_t rows_of_a_block(std::size_t H) {
    constexpr std::size_t elements_in_cache = 1 << 15;
    return std::clamp<std::size_t>(elements_in_cache / std::max<std::size_t>(H, 1), 256, 512);
}

namespace {

// Of a slot about so many numbers are made before the next operation begins: few enough that they are still near,
// enough that the products are made in whole tiles.
constexpr std::size_t numbers_of_a_chunk = 4096;

double operations_of_a_row(const Program& program, const std::size_t* sizes) {
    const auto of = [&](const Weight& weight) {
        return 2.0 * static_cast<double>(sizes[weight.rows] * sizes[weight.columns] * weight.matrices.size());
    };
    double operations = 0;
    for (const Instruction& i : program.instructions)
        if (is_product(i.operation))
            for (const Factors& factors : program.products[i.from[0]])
                operations += of(program.weights[factors.weight]);
        else
            operations += 4.0 * static_cast<double>(sizes[program.size_of_result(i)]);
    for (const Ahead& ahead : program.ahead)
        for (const Factors& factors : ahead.terms) operations += of(program.weights[factors.weight]);
    for (const After& after : program.after)
        for (const Factors& factors : after.terms) operations += of(program.weights[factors.weight]);
    for (const Gradient& g : program.gradients)
        if (g.left >= 0)
            operations +=
                2.0 * static_cast<double>(sizes[program.results[g.to].rows] * sizes[program.results[g.to].columns]);
    return operations;
}

// On the way back what one member makes of a row others read, who sum columns of gradients. Fetching a register from
// another core takes as long as so many operations, which must be shared to be worth it.
template <class Real>
bool is_worth_handing_over(const Sweep<Real>& sweep, double operations_of_a_row) {
    constexpr double as_long_as_a_register = 4000;
    std::size_t registers = 0;
    int last = -1;
    for (const Gradient& gradient : sweep.program.gradients) {
        if (gradient.right != last) registers += panels_of<Real>(sweep.sizes[sweep.program.slots[gradient.right].size]);
        last = gradient.right;
    }
    return operations_of_a_row > as_long_as_a_register * static_cast<double>(registers);
}

template <class Real>
class Walk : Plan<Real> {
public:
    Walk(const Sweep<Real>& sweep, std::size_t threads) : Plan<Real>(sweep, threads) {}

    std::size_t members() const { return members_; }

    void operator()(Member& member) const {
        member.phase(members_, [&](std::size_t share) { begin(share); });
        if (apart_)
            member.phase(shares_.count, [&](std::size_t share) {
                for (const Block& block : blocks_) walk_rows(block, share);
            });
        else
            for (const Block& block : blocks_) walk(member, block);
        if (!program_.results.empty()) member.phase(members_, [&](std::size_t share) { write_sums(share); });
    }

private:
    using Base = Plan<Real>;
    using Base::runs_, Base::lefts_, Base::pieces_, Base::terms_, Base::number_of, Base::kernel_, Base::sweep_,
        Base::program_, Base::rows_, Base::shares_, Base::members_, Base::by_blocks_, Base::apart_, Base::blocks_,
        Base::weights_, Base::gathered_, Base::in_order_, Base::vectors_, Base::merged_, Base::starts_, Base::bands_,
        Base::first_bands_, Base::places_, Base::strides_, Base::lanes_of_block_, Base::zeros_, Base::sums_,
        Base::after_, Base::inputs_, Base::own_, Base::length, Base::panels, Base::rows_in, Base::from_the_end,
        Base::walked, Base::walked_before, Base::active, Base::rows_of_share, Base::rows_of, Base::height,
        Base::pack_rows, Base::unpack_rows;
    using typename Base::Places, typename Base::Run;

    void walk(Member& member, const Block& block) const {
        if (by_blocks_ && !program_.ahead.empty())
            member.phase(members_, [&](std::size_t share) {
                const Range some = part(rows_in(block), share, members_);
                const Run run{rows_.before(block.first) + some.first, some.last - some.first};
                look_ahead({&run, 1}, places_[0][0], some.first, share);
            });
        if (shares_.of_columns)
            walk_columns(member, block);
        else
            member.phase(shares_.count, [&](std::size_t share) { walk_rows(block, share); });
        if (program_.gradients.empty() && program_.after.empty()) return;
        member.phase(members_, [&](std::size_t share) {
            for (const Gradient& gradient : program_.gradients) add(gradient, block, share);
            for (const After& after : program_.after) look_back(after, block, share);
        });
    }

    void begin(std::size_t share) const {
        for (std::size_t k = 0; k < program_.weights.size(); ++k) pack_weight(k, share);
        for (std::size_t band = 0; band < bands_.size(); ++band)
            for (const Carried& c : program_.carried) {
                const int size = program_.slots[c.slot].size;
                const Range own = part(panels(size), share, members_);
                for (const Places& places : places_[band])
                    pack_rows(size, of_band(c.first, bands_[band]), bands_[band].last - bands_[band].first, own.first,
                              own.last, places[c.slot]);
            }
        for (std::size_t k = 0; k < program_.results.size(); ++k) {
            const Result& result = program_.results[k];
            const Matrix<Real>& from = sweep_.results[k];
            const Range own = part(panels(result.columns), share, members_);
            if (!from.at) continue;
            if (sweep_.accumulate)
                kernel_.pack({from.at, from.row_stride, from.column_stride}, height(result), length(result.columns),
                             own.first, own.last, sums_[k]);
            else if (!is_written(static_cast<int>(k)))
                for (std::size_t panel = own.first; panel < own.last; ++panel)
                    std::fill_n(sums_[k].at + panel * sums_[k].stride, height(result) * kernel_.lanes, Real(0));
        }
    }

    // Whether the first block writes the sum, whatever it held, and does not add to it.
    bool is_written(int result) const {
        const Gradient* const first = first_of(result);
        return first && first->left >= 0 && !sweep_.tokens[first->left] && rows_.all() != 0;
    }

    const Gradient* first_of(int result) const {
        for (const Gradient& gradient : program_.gradients)
            if (gradient.to == result) return &gradient;
        return nullptr;
    }

    void pack_weight(std::size_t k, std::size_t share) const {
        const Weight& weight = program_.weights[k];
        const Panels<Real> to = weights_[k];
        const std::size_t count = weight.matrices.size();
        const Range own = part(panels(weight.columns), share, members_);
        for (std::size_t g = 0; g < count; ++g) {
            const Matrix<const Real> from = sweep_.matrices[weight.matrices[g]];
            const Panels<Real> at{to.at + g * to.stride, count * to.stride};
            if (!gathered_[k]) {
                kernel_.pack(from, length(weight.rows), length(weight.columns), own.first, own.last, at);
                continue;
            }
            for (std::size_t n = 0; n < rows_.all(); ++n)
                kernel_.pack({from.at + gathered_[k][n] * from.row_stride, from.row_stride, from.column_stride}, 1,
                             length(weight.columns), own.first, own.last, {at.at + n * kernel_.lanes, at.stride});
        }
    }

    // What needs no state, of the rows of some runs: they lie one after the other from row `to`.
    void look_ahead(std::span<const Run> runs, const Places& places, std::size_t to, std::size_t share) const {
        std::size_t count = 0;
        for (const Run& run : runs) count += run.count;
        if (count == 0) return;
        const std::vector<Panels<Real>>& inputs = inputs_[share];
        for (std::size_t array = 0; array < inputs.size(); ++array) {
            if (!inputs[array].at) continue;
            const std::size_t width = length(program_.arrays[array].size);
            Panels<Real> input = inputs[array];
            for (const Run& run : runs) {
                kernel_.pack({sweep_.arrays[array] + run.first * width, static_cast<std::ptrdiff_t>(width), 1},
                             run.count, width, 0, panels_of<Real>(width), input);
                input.at += run.count * kernel_.lanes;
            }
        }
        for (std::size_t k = 0; k < program_.ahead.size(); ++k) {
            const Ahead& ahead = program_.ahead[k];
            if (merged_[ahead.to] >= 0) continue;
            const std::size_t together = ahead.vectors.size(), wide = panels(program_.slots[ahead.to].size) * together;
            const Panels<Real> sum{places[ahead.to].at + to * kernel_.lanes, strides_[ahead.to]};
            Start<Real> start{{starts_[k].at, starts_[k].stride}, 0};
            Term<Real>* const terms = terms_[share];
            Term<Real>* end = terms;
            for (const Factors& factors : ahead.terms) {
                const Panels<Real>& W = weights_[factors.weight];
                if (const std::int64_t* tokens = sweep_.tokens[factors.left]) {
                    const std::int64_t* const of_rows = gathered_[factors.weight] ? in_order_.data() : tokens;
                    Panels<Real> part_of_sum = sum;
                    for (const Run& run : runs) {
                        kernel_.gather({run.count, 0, wide, of_rows + run.first, {W.at, W.stride}, start, part_of_sum});
                        part_of_sum.at += run.count * kernel_.lanes;
                        start.at.at += run.count * start.row_step;
                    }
                    start = {{sum.at, sum.stride}, kernel_.lanes};
                } else {
                    *end++ = input_term(factors, share);
                }
            }
            if (end != terms || start.row_step == 0)
                kernel_.product({count, 0, 0, wide, start, terms, static_cast<std::size_t>(end - terms), sum, nullptr});
            if (program_.slots[ahead.to].size != 0) continue;
            for (std::size_t g = 0; g < together; ++g) to_all_lanes(sum.at + g * sum.stride, count);
        }
    }

    Term<Real> input_term(const Factors& factors, std::size_t share) const {
        const Panels<Real>&x = inputs_[share][factors.left], &W = weights_[factors.weight];
        return {length(program_.weights[factors.weight].rows), {x.at, x.stride}, {W.at, W.stride}};
    }

    // A number for each row.
    void to_all_lanes(Real* at, std::size_t rows) const {
        for (std::size_t r = 0; r < rows; ++r)
            std::fill_n(at + r * kernel_.lanes, kernel_.lanes, Real(at[r * kernel_.lanes]));
    }

    template <class Visit>
    void each_step(const Block& block, const Visit& visit) const {
        for (std::size_t s = 0; s < block.last - block.first; ++s)
            visit(from_the_end() ? block.last - 1 - s : block.first + s);
    }

    // All steps of a block, for the rows of one member.
    void walk_rows(const Block& block, std::size_t share) const {
        if (!runs_.empty()) look_ahead(runs_[share][number_of(block)], places_[first_bands_[share]][0], 0, share);
        for (std::size_t band = first_bands_[share]; band < first_bands_[share + 1]; ++band) {
            each_step(block, [&](std::size_t t) {
                const Step step = at(block, t, band, share);
                leave(step, share);
                if (step.rows == 0) return;
                const Run own{rows_.before(t) + bands_[band].first, step.rows};
                if (!by_blocks_) look_ahead({&own, 1}, step.places, 0, share);
                for (const Segment& segment : program_.segments) run(segment, step, share);
            });
            if (&block == &blocks_.back()) leave_at_last(band, share);
        }
    }

    // All rows of a block, of which each member takes some columns; they wait for each other where a segment says so.
    void walk_columns(Member& member, const Block& block) const {
        const std::size_t segments = std::max<std::size_t>(1, program_.segments.size());
        const std::size_t all = (block.last - block.first) * segments;
        const auto run_all = [&](std::size_t first, std::size_t last) {
            member.phase(shares_.count, [&](std::size_t share) {
                for (std::size_t k = first; k < last; ++k) {
                    const std::size_t s = k / segments;
                    const Step step = at(block, from_the_end() ? block.last - 1 - s : block.first + s, 0, 0);
                    if (k % segments == 0) leave(step, share);
                    if (step.rows != 0 && !program_.segments.empty()) run(program_.segments[k % segments], step, share);
                }
                if (last == all && &block == &blocks_.back()) leave_at_last(0, share);
            });
        };
        std::size_t first = 0;
        for (std::size_t k = 1; k < all; ++k)
            if (!program_.segments.empty() && program_.segments[k % segments].waits) {
                run_all(first, k);
                first = k;
            }
        run_all(first, all);
    }

    // What a member has at hand: some rows of a step.
    struct Step {
        const Places& places;
        std::size_t t, row;             // row: the first of them, of those of the block
        std::size_t rows, rows_before;  // how many of the band go on, and did at the step walked before
        std::size_t band;
    };

    // Where the first row of a step is among those of its block.
    std::size_t row_of(const Block& block, std::size_t t, std::size_t share) const {
        if (apart_) return rows_of(share, block.first, t) - rows_of_share(share).first;
        return by_blocks_ ? rows_.before(t) - rows_.before(block.first) : 0;
    }

    Step at(const Block& block, std::size_t t, std::size_t band, std::size_t share) const {
        const Range rows = bands_[band];
        const std::size_t row = row_of(block, t, share);
        return {places_[band][walked(t) % 2],
                t,
                row + rows.first,
                active(t, rows),
                walked(t) == 0 ? 0 : active(walked_before(t), rows),
                band};
    }

    // Rows that have had their last step.
    void leave(const Step& step, std::size_t share) const {
        if (step.rows < step.rows_before) leave(step.places, step.band, {step.rows, step.rows_before}, share);
    }

    void leave_at_last(std::size_t band, std::size_t share) const {
        const std::size_t T = sweep_.steps.T, all = bands_[band].last - bands_[band].first;
        const Places& places = places_[band][T % 2];
        const std::size_t now = T == 0 ? 0 : active(from_the_end() ? 0 : T - 1, bands_[band]);
        const std::size_t ever = T == 0 ? 0 : active(0, bands_[band]);
        leave(places, band, {0, now}, share);
        leave(places, band, {ever, all}, share);
    }

    void leave(const Places& places, std::size_t band, Range rows, std::size_t share) const {
        if (rows.first == rows.last) return;
        for (const Carried& c : program_.carried) {
            if (c.last < 0) continue;
            const int size = program_.slots[c.slot].size;
            const Range own = columns(size, share);
            Place<Real> from = places[c.slot];
            from.at += rows.first * from.row_step;
            const Range of_batch{bands_[band].first + rows.first, bands_[band].first + rows.last};
            unpack_rows(size, from, rows.last - rows.first, own.first, own.last, of_band(c.last, of_batch));
        }
    }

    Range columns(int size, std::size_t share) const {
        if (!shares_.of_columns) return {0, panels(size)};
        if (size == 0) return {0, share == 0 ? std::size_t{1} : 0};
        return part(panels(size), share, shares_.count);
    }

    void run(const Segment& segment, const Step& step, std::size_t share) const {
        const Range own = columns(segment.size, share);
        const std::size_t some = std::max<std::size_t>(1, numbers_of_a_chunk / (step.rows * kernel_.lanes));
        for (std::size_t first = own.first; first < own.last; first += some)
            for (std::size_t k = segment.first; k < segment.last; ++k)
                run(program_.instructions[k], step, {first, std::min(first + some, own.last)}, share);
    }

    void run(const Instruction& i, const Step& step, Range chunk, std::size_t share) const {
        switch (i.operation) {
            case Operation::load:
                if (program_.only_loaded[i.to] >= 0) return;
                return pack_rows(program_.slots[i.to].size, of_step(i.from[0], step.t, step.band), step.rows,
                                 chunk.first, chunk.last, place(i.to, step));
            case Operation::previous: return previous(i, step, chunk);
            case Operation::store:
                return unpack_rows(program_.slots[i.from[0]].size, place(i.from[0], step), step.rows, chunk.first,
                                   chunk.last, array_at(i.to, step));
            case Operation::product:
            case Operation::add_product: return multiply(i, step, chunk, share);
            default: break;
        }
        const bool is_of_row = is_of_rows(i.operation);
        const int size = !is_of_row      ? program_.slots[i.to].size
                         : i.from[0] < 0 ? program_.size_of_vector(-1 - i.from[0])
                                         : program_.slots[i.from[0]].size;
        Entries<Real> entries{
            i.operation,       step.rows, length(size), chunk.first, is_of_row ? panels(size) : chunk.last,
            place(i.to, step), {},        {},           {}};
        for (int n = 0; n < arity(i.operation); ++n) {
            entries.is_row_major[n] = i.from[n] >= 0 && program_.only_loaded[i.from[n]] >= 0;
            entries.from[n] = read(i.from[n], step);
        }
        if (i.also >= 0) entries.also = array_at(i.also, step);
        kernel_.entries(entries);
    }

    void previous(const Instruction& i, const Step& step, Range chunk) const {
        const std::size_t T = sweep_.steps.T, t = step.t;
        const bool reverse = sweep_.steps.reverse, is_first = reverse ? t + 1 == T : t == 0;
        const std::size_t before = reverse ? t + 1 : t - 1;
        const std::size_t go_on = is_first ? 0 : std::min(step.rows, active(before, bands_[step.band]));
        const int size = program_.slots[i.to].size;
        Place<Real> to = place(i.to, step);
        if (go_on != 0) pack_rows(size, of_step(i.from[0], before, step.band), go_on, chunk.first, chunk.last, to);
        if (go_on == step.rows) return;
        to.at += go_on * to.row_step;
        const Range band = bands_[step.band];
        pack_rows(size, of_band(i.from[1], {band.first + go_on, band.last}), step.rows - go_on, chunk.first, chunk.last,
                  to);
    }

    void multiply(const Instruction& i, const Step& step, Range chunk, std::size_t share) const {
        const std::vector<Factors>& factors = program_.products[i.from[0]];
        const Slot& slot = program_.slots[i.to];
        const auto together = static_cast<std::size_t>(program_.groups[slot.group].count);
        const Panels<Real> all{place(i.to, step).at, strides_[i.to]};
        Start<Real> start{};
        std::size_t count = factors.size();
        const Ahead* const ahead = merged_[i.to] < 0 ? nullptr : &program_.ahead[merged_[i.to]];
        if (ahead) {
            const Panels<Real>& row = starts_[merged_[i.to]];
            start = {{row.at, row.stride}, 0};
            count += ahead->terms.size();
        } else if (i.operation == Operation::add_product) {
            start = {{all.at, all.stride}, kernel_.lanes};
        }
        Term<Real>* const terms = terms_[share];
        Term<Real>* term = terms;
        if (ahead)
            for (const Factors& input : ahead->terms) *term++ = input_term(input, share);
        for (const Factors& f : factors) {
            const Place<Real> left = place(f.left, step);
            const Panels<Real>& W = weights_[f.weight];
            *term++ = {length(program_.weights[f.weight].rows), {left.at, left.panel_step}, {W.at, W.stride}};
        }
        kernel_.product(
            {step.rows, 0, chunk.first * together, chunk.last * together, start, terms, count, all, nullptr});
        if (slot.size != 0) return;
        for (std::size_t g = 0; g < together; ++g) to_all_lanes(all.at + g * all.stride, step.rows);
    }

    // What the steps of a block send to a result.
    void add(const Gradient& g, const Block& block, std::size_t share) const {
        if (!sums_[g.to].at) return;
        const std::size_t rows = rows_in(block), wide = panels(program_.results[g.to].columns);
        const Range own = part(wide, share, members_);
        const Place<Real> place = places_[0][0][g.right];
        const Panels<const Real> right{place.at, program_.slots[g.right].size == 0 ? 0 : place.panel_step};
        if (g.left < 0) return kernel_.bias_gradient(rows, own.first, own.last, right, sums_[g.to]);
        if (const std::int64_t* tokens = sweep_.tokens[g.left])
            return kernel_.token_gradient(
                {rows, own.first, own.last, tokens + rows_.before(block.first), right, sums_[g.to]});
        const auto number = static_cast<std::size_t>(&g - program_.gradients.data());
        const std::vector<Piece<Real>>& pieces = pieces_[lefts_[number]][number_of(block)];
        WeightGradient<Real> gradient{
            .left_columns = length(program_.results[g.to].rows),
            .first_row = 0,
            .last_row = length(program_.results[g.to].rows),
            .first = own.first,
            .last = own.last,
            .left = pieces.data(),
            .pieces = pieces.size(),
            .right = right,
            .sum = sums_[g.to],
            .first_block = &block == blocks_.data() && &g == first_of(g.to) && !sweep_.accumulate};
        constexpr std::size_t enough = 12;  // rows of the sum for each member, so that tiles are tall
        if (gradient.left_columns >= enough * members_ && !has_tokens(g.to)) {
            const Range rows_of_sum = part(gradient.left_columns, share, members_);
            gradient.first_row = rows_of_sum.first;
            gradient.last_row = rows_of_sum.last;
            gradient.first = 0;
            gradient.last = wide;
        }
        kernel_.weight_gradient(gradient);
    }

    // Whether tokens add to a result too, for which members share columns.
    bool has_tokens(int result) const {
        return std::any_of(program_.gradients.begin(), program_.gradients.end(),
                           [&](const Gradient& g) { return g.to == result && g.left >= 0 && sweep_.tokens[g.left]; });
    }

    void look_back(const After& after, const Block& block, std::size_t share) const {
        Real* const to = sweep_.arrays[after.to];
        const Range own = part(rows_in(block), share, members_);
        if (!to || own.first == own.last) return;
        const int size = program_.arrays[after.to].size;
        Term<Real>* const terms = terms_[share];
        Term<Real>* term = terms;
        for (const Factors& factors : after.terms) {
            const Place<Real> left = places_[0][0][factors.left];
            const Panels<Real>& W = weights_[factors.weight];
            *term++ = {length(program_.weights[factors.weight].rows),
                       {left.at + own.first * kernel_.lanes, left.panel_step},
                       {W.at, W.stride}};
        }
        kernel_.product({own.last - own.first,
                         length(size),
                         0,
                         panels(size),
                         {},
                         terms,
                         after.terms.size(),
                         after_[share],
                         to + (rows_.before(block.first) + own.first) * length(size)});
    }

    void write_sums(std::size_t share) const {
        for (std::size_t k = 0; k < program_.results.size(); ++k) {
            const Result& result = program_.results[k];
            if (!sums_[k].at) continue;
            const Range own = part(panels(result.columns), share, members_);
            kernel_.unpack({sums_[k].at, sums_[k].stride}, height(result), length(result.columns), own.first, own.last,
                           sweep_.results[k]);
        }
    }

    Place<Real> place(int slot, const Step& step) const {
        Place<Real> found = step.places[slot];
        found.at += step.row * lanes_of_block_[slot];
        return found;
    }

    Place<const Real> read(int number, const Step& step) const {
        if (number < 0) return vectors_[-1 - number];
        if (program_.only_loaded[number] >= 0) {
            const Matrix<Real> rows = of_step(program_.only_loaded[number], step.t, step.band);
            if (!rows.at) return {zeros_, 0, 0};
            return {rows.at, kernel_.lanes, static_cast<std::size_t>(rows.row_stride)};
        }
        const Place<Real> found = place(number, step);
        return {found.at, found.panel_step, found.row_step};
    }

    Matrix<Real> of_step(int array, std::size_t t, std::size_t band) const {
        return rows_from(sweep_.arrays[array], rows_.before(t) + bands_[band].first, program_.arrays[array].size);
    }

    Matrix<Real> array_at(int array, const Step& step) const {
        if (!program_.arrays[array].of_block) return of_step(array, step.t, step.band);
        return rows_from(own_[array], step.row, program_.arrays[array].size);
    }

    Matrix<Real> of_band(int rows, Range band) const {
        if (rows < 0) return {nullptr, 0, 1};
        return rows_from(sweep_.rows[rows], band.first, program_.rows[rows]);
    }

    Matrix<Real> rows_from(Real* all, std::size_t row, int size) const {
        const std::size_t width = length(size);
        return {all ? all + row * width : nullptr, static_cast<std::ptrdiff_t>(width), 1};
    }
};

// On the way back too: the array is the caller's, who may have changed it since.
void check_tokens(const std::int64_t* tokens, std::size_t N, std::size_t rows) {
    if (!tokens || N == 0) return;
    const auto [least, most] = std::minmax_element(tokens, tokens + N);
    if (*least < 0 || static_cast<std::size_t>(*most) >= rows)
        throw std::out_of_range("tokens must lie in [0, " + std::to_string(rows) + "), the input size; got " +
                                std::to_string(*least) + " to " + std::to_string(*most));
}

template <class Real>
void check_tokens(const Sweep<Real>& sweep, std::size_t N) {
    const Program& program = sweep.program;
    for (const Ahead& ahead : program.ahead)
        for (const Factors& factors : ahead.terms)
            check_tokens(sweep.tokens[factors.left], N, sweep.sizes[program.weights[factors.weight].rows]);
    for (const Gradient& g : program.gradients) {
        if (g.left < 0) continue;
        check_tokens(sweep.tokens[g.left], N, sweep.sizes[program.results[g.to].rows]);
        if (g.before && sweep.tokens[g.left]) throw std::invalid_argument("tokens have no step before");
    }
    const auto is_token = [&](int array) { return sweep.tokens[array] != nullptr; };
    for (const Instruction& i : program.instructions) {
        const bool loads = i.operation == Operation::load || i.operation == Operation::previous;
        const int stored = i.operation == Operation::store ? i.to : i.also;
        if ((loads && is_token(i.from[0])) || (stored >= 0 && is_token(stored)))
            throw std::invalid_argument("tokens can only stand left of a matrix");
    }
    for (const After& after : program.after)
        if (is_token(after.to)) throw std::invalid_argument("tokens have no gradient");
}

}  // namespace

template <class Real>
void run(const Sweep<Real>& sweep, std::size_t threads) {
    const std::size_t N = Rows(sweep.steps).all();
    check_tokens(sweep, N);
    const double operations = operations_of_a_row(sweep.program, sweep.sizes);
    threads = is_worth_handing_over(sweep, operations) ? team_for(operations * static_cast<double>(N), threads) : 1;
    const Walk<Real> walk(sweep, threads);
    run_team(walk.members(), walk);
}

template void run(const Sweep<float>&, std::size_t);
template void run(const Sweep<double>&, std::size_t);

}  // namespace bptt
