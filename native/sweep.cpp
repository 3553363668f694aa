// The sweep of a program: who takes which rows or columns, and what is run on them in which order.
#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "kernels.hpp"
#include "program.hpp"
#include "schedule.hpp"
#include "team.hpp"

namespace bptt {

// The cotangents and states of a block should stay in the second-level cache, and there must be enough of them to make
// reading and writing the sums once per block cheap.
std::size_t rows_of_a_block(std::size_t H) {
    constexpr std::size_t elements_in_cache = 1 << 15;
    return std::clamp<std::size_t>(elements_in_cache / std::max<std::size_t>(H, 1), 256, 512);
}

namespace {

// Fewer rows than this use the weights too seldom for each time that they are read, the more so where these do not stay
// in the second-level cache. With fewer, what is made ahead is made for several steps at once: few enough that they are
// still in that cache when their steps come.
std::size_t rows_worth_a_product(std::size_t bytes) { return bytes > 1 << 20 ? 64 : 8; }
constexpr std::size_t rows_ahead = 112;

// Of a slot so many numbers are made before the next operation begins, so that they are still in the first-level cache.
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

template <class Real>
class Walk {
public:
    Walk(const Sweep<Real>& sweep, std::size_t threads)
        : sweep_(sweep),
          program_(sweep.program),
          rows_(sweep.steps),
          shares_(share_out_of(threads)),
          members_(threads) {
        const std::size_t B = sweep.steps.B, row_shares = shares_.of_columns ? 1 : shares_.count;
        by_blocks_ = program_.back || shares_.of_columns || B / row_shares < rows_worth_a_product(bytes_ahead());
        blocks_ = {{0, sweep.steps.T}};
        if (by_blocks_ && sweep.steps.T != 0)
            blocks_ = blocks_of(rows_, sweep.steps.T,
                                program_.back ? rows_of_a_block(widest()) : rows_ahead * row_shares, from_the_end());
        apart_ = by_blocks_ && !program_.back && !shares_.of_columns;
        make_bands(row_shares);
        rows_of_blocks_ = B;
        if (by_blocks_)
            for (const Block& block : blocks_) rows_of_blocks_ = std::max(rows_of_blocks_, rows_in(block));
        if (apart_) {
            for (std::size_t share = 0; share < row_shares; ++share)
                for (const Block& block : blocks_)
                    rows_of_shares_ = std::max(rows_of_shares_, rows_of(share, block.first, block.last));
            rows_of_blocks_ = rows_of_shares_ * row_shares;
        }
        make_weights();
        make_vectors();
        make_sums();
        make_places();
    }

    void operator()(Member& member) const {
        member.phase(members_, [&](std::size_t share) { begin(share); });
        for (const Block& block : blocks_) {
            if (by_blocks_ && !apart_ && !program_.ahead.empty())
                member.phase(members_, [&](std::size_t share) {
                    const Range some = part(rows_in(block), share, members_);
                    look_ahead({{rows_.before(block.first) + some.first, some.last - some.first}}, some.first, share);
                });
            if (shares_.of_columns)
                walk_columns(member, block);
            else
                member.phase(shares_.count, [&](std::size_t share) { walk_rows(block, share); });
            if (program_.gradients.empty() && program_.after.empty()) continue;
            member.phase(members_, [&](std::size_t share) {
                for (const Gradient& gradient : program_.gradients) add(gradient, block, share);
                for (const After& after : program_.after) look_back(after, block, share);
            });
        }
        if (!program_.results.empty()) member.phase(members_, [&](std::size_t share) { write_sums(share); });
    }

private:
    using Places = std::vector<Place<Real>>;

    std::size_t length(int size) const { return sweep_.sizes[size]; }
    std::size_t panels(int size) const { return panels_of<Real>(length(size)); }
    std::size_t rows_in(const Block& block) const { return rows_.before(block.last) - rows_.before(block.first); }
    bool from_the_end() const { return sweep_.steps.reverse != program_.back; }

    // How many steps are walked before step t.
    std::size_t walked(std::size_t t) const { return from_the_end() ? sweep_.steps.T - 1 - t : t; }
    std::size_t walked_before(std::size_t t) const { return from_the_end() ? t + 1 : t - 1; }

    std::size_t widest() const {
        std::size_t found = 1;
        for (const Carried& carried : program_.carried)
            if (carried.next >= 0) found = std::max(found, length(program_.slots[carried.slot].size));
        return found;
    }

    // Of the weights of some terms.
    std::size_t registers_of(const std::vector<Factors>& terms) const {
        std::size_t registers = 0;
        for (const Factors& factors : terms) {
            const Weight& weight = program_.weights[factors.weight];
            registers += length(weight.rows) * panels(weight.columns) * weight.matrices.size();
        }
        return registers;
    }

    std::size_t bytes_ahead() const {
        std::size_t registers = 0;
        for (const Ahead& ahead : program_.ahead) registers += registers_of(ahead.terms);
        return registers * kernel_.lanes * sizeof(Real);
    }

    Shares share_out_of(std::size_t threads) const {
        std::size_t registers = 0, most = 1, waits = 0;
        for (const std::vector<Factors>& product : program_.products) registers += registers_of(product);
        for (const Carried& carried : program_.carried)
            most = std::max(most, panels(program_.slots[carried.slot].size));
        for (const Segment& segment : program_.segments) waits += segment.waits;
        return share_out(sweep_.steps.B, registers, most, kernel_.lanes * sizeof(Real), waits, threads);
    }

    void make_weights() {
        gathered_.resize(program_.weights.size());
        for (const Ahead& ahead : program_.ahead)
            for (const Factors& factors : ahead.terms)
                if (const std::int64_t* tokens = sweep_.tokens[factors.left])
                    if (length(program_.weights[factors.weight].rows) > rows_.all() && is_only_left(factors))
                        gathered_[factors.weight] = tokens;
        weights_.reserve(program_.weights.size());
        for (std::size_t k = 0; k < program_.weights.size(); ++k) {
            const Weight& weight = program_.weights[k];
            weights_.push_back(room_.panels(gathered_[k] ? rows_.all() : length(weight.rows),
                                            panels(weight.columns) * weight.matrices.size()));
        }
        if (std::any_of(gathered_.begin(), gathered_.end(), [](const auto* tokens) { return tokens; })) {
            in_order_.resize(rows_.all());
            std::iota(in_order_.begin(), in_order_.end(), 0);
        }
    }

    // Whether no other product has the weight.
    bool is_only_left(const Factors& ahead) const {
        std::size_t uses = 0;
        const auto count = [&](const std::vector<Factors>& terms) {
            for (const Factors& factors : terms) uses += factors.weight == ahead.weight;
        };
        for (const Ahead& other : program_.ahead) count(other.terms);
        for (const std::vector<Factors>& product : program_.products) count(product);
        for (const After& after : program_.after) count(after.terms);
        return uses == 1;
    }

    void make_vectors() {
        const std::size_t numbers = program_.numbers.size(), all = numbers + program_.vectors.size();
        vectors_.reserve(all);
        for (std::size_t k = 0; k < all; ++k) {
            const int size = program_.size_of_vector(static_cast<int>(k));
            const Panels<Real> at = room_.panels(1, panels(size));
            Real number{};
            if (k < numbers) {
                const Number& given = program_.numbers[k];
                number = static_cast<Real>(given.size < 0 ? given.value : static_cast<double>(length(given.size)));
            }
            const Real* const from = k < numbers ? &number : sweep_.vectors[k - numbers];
            const Place<Real> place{at.at, size == 0 ? 0 : at.stride, kernel_.lanes};
            pack_rows(size, {const_cast<Real*>(from), 0, 1}, 1, 0, panels(size), place);
            vectors_.push_back({at.at, place.panel_step, 0});
        }
        merged_.resize(program_.slots.size(), -1);
        for (std::size_t k = 0; k < program_.ahead.size(); ++k) {
            const Ahead& ahead = program_.ahead[k];
            const std::size_t together = ahead.vectors.size(), count = panels(program_.slots[ahead.to].size);
            const Panels<Real> sum = room_.panels(1, count * together);
            for (std::size_t g = 0; g < together; ++g)
                for (std::size_t panel = 0; panel < count; ++panel)
                    add_vectors(ahead.vectors[g], panel, sum.at + (panel * together + g) * sum.stride);
            starts_.push_back(sum);
            const bool is_added_to = std::any_of(
                program_.instructions.begin(), program_.instructions.end(),
                [&](const Instruction& i) { return i.operation == Operation::add_product && i.to == ahead.to; });
            const bool has_tokens = std::any_of(ahead.terms.begin(), ahead.terms.end(),
                                                [&](const Factors& f) { return sweep_.tokens[f.left] != nullptr; });
            if (!by_blocks_ && is_added_to && !has_tokens) merged_[ahead.to] = static_cast<int>(k);
        }
    }

    void add_vectors(const std::vector<int>& vectors, std::size_t panel, Real* to) const {
        for (std::size_t lane = 0; lane < kernel_.lanes; ++lane) {
            Real sum =
                vectors.empty() ? Real(0) : vectors_[vectors[0]].at[panel * vectors_[vectors[0]].panel_step + lane];
            for (std::size_t k = 1; k < vectors.size(); ++k)
                sum += vectors_[vectors[k]].at[panel * vectors_[vectors[k]].panel_step + lane];
            to[lane] = sum;
        }
    }

    void make_bands(std::size_t row_shares) {
        for (std::size_t share = 0; share < row_shares; ++share) {
            const Range own = part(sweep_.steps.B, share, row_shares);
            const std::size_t rows = own.last - own.first;
            const std::size_t count =
                shares_.of_columns ? 1 : std::max<std::size_t>(1, divide_up(rows, rows_of_a_band));
            first_bands_.push_back(bands_.size());
            for (std::size_t band = 0; band < count; ++band) {
                const Range some = part(rows, band, count);
                bands_.push_back({own.first + some.first, own.first + some.last});
                rows_of_bands_ = std::max(rows_of_bands_, some.last - some.first);
            }
        }
        first_bands_.push_back(bands_.size());
    }

    void make_sums() {
        sums_.reserve(program_.results.size());
        own_.reserve(program_.arrays.size());
        for (std::size_t k = 0; k < program_.results.size(); ++k) {
            const Result& result = program_.results[k];
            sums_.push_back(sweep_.results[k].at ? room_.panels(height(result), panels(result.columns))
                                                 : Panels<Real>{});
        }
        for (const Array& array : program_.arrays)
            own_.push_back(array.of_block ? room_.numbers(rows_of_blocks_ * length(array.size)) : nullptr);
        std::size_t most = 0;
        for (const After& after : program_.after) most = std::max(most, panels(program_.arrays[after.to].size));
        const std::size_t rows_of_a_member = divide_up(rows_of_blocks_, members_);
        for (std::size_t share = 0; share < (most ? members_ : 0); ++share)
            after_.push_back(room_.panels(rows_of_a_member, most));
        for (std::size_t share = 0; share < std::max(members_, shares_.count); ++share) {
            inputs_.emplace_back(program_.arrays.size());
            for (const Ahead& ahead : program_.ahead)
                for (const Factors& factors : ahead.terms) {
                    Panels<Real>& input = inputs_.back()[factors.left];
                    if (!sweep_.tokens[factors.left] && !input.at)
                        input = room_.panels(apart_       ? rows_of_shares_
                                             : by_blocks_ ? rows_of_a_member
                                                          : rows_of_bands_,
                                             panels(program_.arrays[factors.left].size));
                }
        }
    }

    // Of groups of a block there is one, which all share. What is carried is there twice for each band: as the step
    // before left it, and as this one leaves it. So is what stands left of a product, where members share columns:
    // others may still read it when the next step begins.
    void make_places() {
        std::vector<bool> is_carried(program_.slots.size()), is_double(program_.groups.size());
        for (const Carried& carried : program_.carried) {
            is_carried[carried.slot] = true;
            if (carried.next >= 0) is_carried[carried.next] = true;
        }
        if (shares_.of_columns)
            for (const std::vector<Factors>& product : program_.products)
                for (const Factors& factors : product) is_double[program_.slots[factors.left].group] = true;
        const auto place = [&](Panels<Real> all, const Slot& slot) {
            const auto count = static_cast<std::size_t>(program_.groups[slot.group].count);
            return Place<Real>{all.at + static_cast<std::size_t>(slot.place) * all.stride,
                               slot.size == 0 ? 0 : count * all.stride, kernel_.lanes};
        };
        const auto group = [&](const Slot& slot, std::size_t rows) {
            return room_.panels(rows, panels(slot.size) * static_cast<std::size_t>(program_.groups[slot.group].count));
        };
        strides_.resize(program_.slots.size());
        in_memory_ = program_.only_loaded;
        for (std::size_t k = 0; k < program_.slots.size(); ++k)
            if (length(program_.slots[k].size) % kernel_.lanes != 0) in_memory_[k] = -1;
        zeros_ = room_.numbers(kernel_.lanes);
        std::fill_n(zeros_, kernel_.lanes, Real(0));
        lanes_of_block_.resize(program_.slots.size());
        for (std::size_t k = 0; k < program_.slots.size(); ++k)
            if (program_.groups[program_.slots[k].group].of_block) lanes_of_block_[k] = kernel_.lanes;
        Places of_block(program_.slots.size());
        Panels<Real> last{};
        for (std::size_t k = 0; k < program_.slots.size(); ++k) {
            const Slot& slot = program_.slots[k];
            if (!program_.groups[slot.group].of_block) continue;
            if (slot.place == 0) last = group(slot, rows_of_blocks_);
            strides_[k] = last.stride;
            of_block[k] = place(last, slot);
        }
        for (std::size_t share = 0; share + 1 < first_bands_.size(); ++share) {
            Places of_share[2] = {of_block, of_block};
            Panels<Real> of_group[2]{};
            for (std::size_t k = 0; k < program_.slots.size(); ++k) {
                const Slot& slot = program_.slots[k];
                if (program_.groups[slot.group].of_block || is_carried[k]) continue;
                if (slot.place == 0) {
                    of_group[0] = of_group[1] = group(slot, rows_of_bands_);
                    if (is_double[slot.group]) of_group[1] = group(slot, rows_of_bands_);
                }
                strides_[k] = of_group[0].stride;
                for (int parity : {0, 1}) of_share[parity][k] = place(of_group[parity], slot);
            }
            for (std::size_t band = first_bands_[share]; band < first_bands_[share + 1]; ++band) {
                for (const Carried& c : program_.carried) {
                    const Slot& slot = program_.slots[c.slot];
                    const Place<Real> before = place(group(slot, rows_of_bands_), slot);
                    const Place<Real> after = c.next < 0 ? before : place(group(slot, rows_of_bands_), slot);
                    strides_[c.slot] = before.panel_step;
                    of_share[0][c.slot] = before;
                    of_share[1][c.slot] = after;
                    if (c.next < 0) continue;
                    strides_[c.next] = before.panel_step;
                    of_share[0][c.next] = after;
                    of_share[1][c.next] = before;
                }
                places_.push_back({of_share[0], of_share[1]});
            }
        }
    }

    std::size_t height(const Result& result) const { return result.rows < 0 ? 1 : length(result.rows); }

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

    // Consecutive rows of all steps.
    struct Run {
        std::size_t first, count;
    };

    // What needs no state, of the rows of some runs: they lie one after the other from row `to` of the block.
    void look_ahead(const std::vector<Run>& runs, std::size_t to, std::size_t share) const {
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
            const Panels<Real> sum{places_[0][0][ahead.to].at + to * kernel_.lanes, strides_[ahead.to]};
            Start<Real> start{{starts_[k].at, starts_[k].stride}, 0};
            std::vector<Term<Real>> terms;
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
                    terms.push_back(input_term(factors, share));
                }
            }
            if (!terms.empty() || start.row_step == 0)
                kernel_.product({count, 0, 0, wide, start, terms.data(), terms.size(), sum, nullptr});
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
        if (apart_ && !program_.ahead.empty()) {
            std::vector<Run> runs;
            const Range own = rows_of_share(share);
            for (std::size_t t = block.first; t < block.last; ++t)
                runs.push_back({rows_.before(t) + own.first, active(t, own)});
            look_ahead(runs, share * rows_of_shares_, share);
        }
        for (std::size_t band = first_bands_[share]; band < first_bands_[share + 1]; ++band) {
            each_step(block, [&](std::size_t t) {
                const Step step = at(block, t, band, share);
                leave(step, share);
                if (step.rows == 0) return;
                if (!by_blocks_ && !program_.ahead.empty())
                    look_ahead({{rows_.before(t) + bands_[band].first, step.rows}}, step.row, share);
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

    std::size_t active(std::size_t t, Range band) const {
        return std::clamp(rows_.of(t), band.first, band.last) - band.first;
    }

    // The rows of the batch that a member walks.
    Range rows_of_share(std::size_t share) const {
        return {bands_[first_bands_[share]].first, bands_[first_bands_[share + 1] - 1].last};
    }

    // How many of them there are in some steps.
    std::size_t rows_of(std::size_t share, std::size_t first, std::size_t last) const {
        const Range own = rows_of_share(share);
        if (!sweep_.steps.batch_sizes) return (last - first) * (own.last - own.first);
        std::size_t sum = 0;
        for (std::size_t t = first; t < last; ++t) sum += active(t, own);
        return sum;
    }

    // Where the first row of a step is among those of its block.
    std::size_t row_of(const Block& block, std::size_t t, std::size_t share) const {
        if (apart_) return share * rows_of_shares_ + rows_of(share, block.first, t) - rows_of_share(share).first;
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
                run(k, step, {first, std::min(first + some, own.last)}, share);
    }

    void run(std::size_t k, const Step& step, Range chunk, std::size_t share) const {
        const Instruction& i = program_.instructions[k];
        switch (i.operation) {
            case Operation::load:
                if (in_memory_[i.to] >= 0) return;
                return pack_rows(program_.slots[i.to].size, of_step(i.from[0], step.t, step.band), step.rows,
                                 chunk.first, chunk.last, place(i.to, step));
            case Operation::previous: return previous(i, step, chunk);
            case Operation::nothing: return;
            case Operation::store:
                return unpack_rows(program_.slots[i.from[0]].size, place(i.from[0], step), step.rows, chunk.first,
                                   chunk.last, array_at(i.to, step));
            case Operation::product:
            case Operation::add_product: return multiply(i, step, chunk, share);
            default: break;
        }
        Entries<Real> entries{i.operation, step.rows, 0, chunk.first, chunk.last, place(i.to, step), {}, {}};
        for (int n = 0; n < arity(i.operation); ++n) entries.from[n] = read(i.from[n], step);
        if (is_of_rows(i.operation)) {
            const int size = i.from[0] < 0 ? program_.size_of_vector(-1 - i.from[0]) : program_.slots[i.from[0]].size;
            entries.columns = length(size);
            entries.last = panels(size);
        } else if (program_.stored_too[k] >= 0) {
            entries.columns = length(program_.slots[i.to].size);
            entries.also = array_at(program_.stored_too[k], step);
        }
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
        Term<Real> some[8];
        std::vector<Term<Real>> more(count > std::size(some) ? count : 0);
        Term<Real>* const terms = more.empty() ? some : more.data();
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
        const std::vector<Piece<Real>> pieces = pieces_of(g, block);
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

    // The left factor of a gradient at the rows of a block, in their order.
    std::vector<Piece<Real>> pieces_of(const Gradient& g, const Block& block) const {
        const std::size_t width = length(program_.arrays[g.left].size), rows = rows_in(block);
        if (program_.arrays[g.left].of_block) return {{own_[g.left], rows}};
        const Real* const all = sweep_.arrays[g.left];
        const Real* const first = g.first < 0 ? nullptr : sweep_.rows[g.first];
        const auto piece = [&](std::size_t row, std::size_t count) {
            return Piece<Real>{all ? all + row * width : nullptr, count};
        };
        const auto initial = [&](std::size_t row, std::size_t count) {
            return Piece<Real>{first ? first + row * width : nullptr, count};
        };
        if (!g.before) return {piece(rows_.before(block.first), rows)};
        const auto [T, B, batch_sizes, reverse] = sweep_.steps;
        if (!batch_sizes && block.first == block.last) return {};
        if (!batch_sizes && reverse) {
            if (block.last < T) return {piece((block.first + 1) * B, rows)};
            return {piece((block.first + 1) * B, rows - B), initial(0, B)};
        }
        if (!batch_sizes) {
            if (block.first > 0) return {piece((block.first - 1) * B, rows)};
            return {initial(0, B), piece(0, rows - B)};
        }
        std::vector<Piece<Real>> pieces;
        for (std::size_t t = block.first; t < block.last; ++t) {
            const bool is_first = t == (reverse ? T - 1 : 0);
            const std::size_t before = reverse ? t + 1 : t - 1;
            const std::size_t go_on = is_first ? 0 : std::min(rows_.of(t), rows_.of(before));
            if (go_on != 0) pieces.push_back(piece(rows_.before(before), go_on));
            if (go_on != rows_.of(t)) pieces.push_back(initial(go_on, rows_.of(t) - go_on));
        }
        return pieces;
    }

    void look_back(const After& after, const Block& block, std::size_t share) const {
        Real* const to = sweep_.arrays[after.to];
        const Range own = part(rows_in(block), share, members_);
        if (!to || own.first == own.last) return;
        const int size = program_.arrays[after.to].size;
        std::vector<Term<Real>> terms;
        for (const Factors& factors : after.terms) {
            const Place<Real> left = places_[0][0][factors.left];
            const Panels<Real>& W = weights_[factors.weight];
            terms.push_back({length(program_.weights[factors.weight].rows),
                             {left.at + own.first * kernel_.lanes, left.panel_step},
                             {W.at, W.stride}});
        }
        kernel_.product({own.last - own.first,
                         length(size),
                         0,
                         panels(size),
                         {},
                         terms.data(),
                         terms.size(),
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
        if (in_memory_[number] >= 0) {
            const Matrix<Real> rows = of_step(in_memory_[number], step.t, step.band);
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

    // Rows to panels; null is zero.
    void pack_rows(int size, Matrix<Real> from, std::size_t rows, std::size_t first, std::size_t last,
                   Place<Real> to) const {
        if (first == last) return;
        if (size == 0)
            for (std::size_t r = 0; r < rows; ++r)
                std::fill_n(to.at + r * to.row_step, kernel_.lanes,
                            from.at ? from.at[static_cast<std::ptrdiff_t>(r) * from.row_stride] : Real(0));
        else if (from.at)
            kernel_.pack({from.at, from.row_stride, from.column_stride}, rows, length(size), first, last,
                         {to.at, to.panel_step});
        else
            for (std::size_t panel = first; panel < last; ++panel)
                std::fill_n(to.at + panel * to.panel_step, rows * kernel_.lanes, Real(0));
    }

    // Panels to rows; not where they are null.
    void unpack_rows(int size, Place<Real> from, std::size_t rows, std::size_t first, std::size_t last,
                     Matrix<Real> to) const {
        if (!to.at || first == last) return;
        if (size == 0)
            for (std::size_t r = 0; r < rows; ++r)
                to.at[static_cast<std::ptrdiff_t>(r) * to.row_stride] = from.at[r * from.row_step];
        else
            kernel_.unpack({from.at, from.panel_step}, rows, length(size), first, last, to);
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const Sweep<Real>& sweep_;
    const Program& program_;
    Rows rows_;
    Shares shares_;
    std::size_t members_;
    bool by_blocks_;  // what needs no state is made block by block; else at each step
    bool apart_;      // each member makes it of its own rows, which lie beside each other in the block
    std::vector<Block> blocks_;
    std::size_t rows_of_blocks_, rows_of_bands_ = 0, rows_of_shares_ = 0;
    Room<Real> room_;
    std::vector<Panels<Real>> weights_;
    std::vector<const std::int64_t*> gathered_;  // of a weight the tokens whose rows alone it holds, one for each of N
    std::vector<std::int64_t> in_order_;
    std::vector<Place<const Real>> vectors_;
    std::vector<int> merged_;           // of a slot what is made ahead of it, where it is made with what is added to it
    std::vector<Panels<Real>> starts_;  // of what is made ahead the sum of its vectors
    std::vector<Range> bands_;          // rows that are walked together
    std::vector<std::size_t> first_bands_;       // of each share of rows
    std::vector<std::array<Places, 2>> places_;  // of each band, at even and odd steps
    std::vector<std::size_t> strides_;           // of a slot from one panel of its group to the next
    std::vector<std::size_t> lanes_of_block_;    // of a slot of a block the numbers from row to row, else 0
    std::vector<int> in_memory_;                 // of a slot the array whose rows are read where they lie, or -1
    Real* zeros_;                                // a register of them
    std::vector<Panels<Real>> sums_, after_;
    std::vector<std::vector<Panels<Real>>> inputs_;  // of each share, by array
    std::vector<Real*> own_;                         // arrays of a block
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
        if ((loads && is_token(i.from[0])) || (i.operation == Operation::store && is_token(i.to)))
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
    threads = team_for(operations_of_a_row(sweep.program, sweep.sizes) * static_cast<double>(N), threads);
    run_team(threads, Walk<Real>(sweep, threads));
}

template void run(const Sweep<float>&, std::size_t);
template void run(const Sweep<double>&, std::size_t);

}  // namespace bptt
