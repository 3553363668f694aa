// The plan of a sweep: how it is shared out among members, and where everything lies that they read and write. All of
// it is made before threads begin, so that none of them asks for memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "buffer.hpp"
#include "kernels.hpp"
#include "program.hpp"
#include "schedule.hpp"

namespace bptt {

// Fewer rows than this use the weights too seldom for each time that they are read, the more so where these do not stay
// in the second-level cache. With fewer, what is made ahead is made for several steps at once: few enough that they are
// still in that cache when their steps come.
inline std::size_t rows_worth_a_product(std::size_t bytes) { return bytes > 1 << 20 ? 64 : 8; }
constexpr std::size_t rows_ahead = 112;

template <class Real>
class Plan {
protected:
    using Places = std::vector<Place<Real>>;

    Plan(const Sweep<Real>& sweep, std::size_t threads)
        : sweep_(sweep),
          program_(sweep.program),
          rows_(sweep.steps),
          shares_(share_out_of(threads)),
          members_(shares_.count == 1 ? 1 : threads) {
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
        }
        make_weights();
        make_vectors();
        make_sums();
        make_places();
        make_runs();
        make_pieces();
        make_terms();
    }

    // Consecutive rows of all steps.
    struct Run {
        std::size_t first, count;
    };

    std::size_t length(int size) const { return sweep_.sizes[size]; }
    std::size_t panels(int size) const { return panels_of<Real>(length(size)); }
    std::size_t rows_in(const Block& block) const { return rows_.before(block.last) - rows_.before(block.first); }
    bool from_the_end() const { return sweep_.steps.reverse != program_.back; }

    std::size_t number_of(const Block& block) const { return static_cast<std::size_t>(&block - blocks_.data()); }

    // How many steps are walked before step t.
    std::size_t walked(std::size_t t) const { return from_the_end() ? sweep_.steps.T - 1 - t : t; }
    std::size_t walked_before(std::size_t t) const { return from_the_end() ? t + 1 : t - 1; }

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

    // Whether it has the rows of all steps of a block; else of one step.
    bool is_of_block(const Slot& slot) const { return by_blocks_ && program_.groups[slot.group].of_block; }

    std::size_t height(const Result& result) const { return result.rows < 0 ? 1 : length(result.rows); }

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

private:
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
        for (std::size_t share = 0; share < (most ? members_ : 0); ++share) {
            room_.leave_a_page();
            after_.push_back(room_.panels(rows_of_a_member, most));
        }
        for (std::size_t share = 0; share < std::max(members_, shares_.count); ++share) {
            room_.leave_a_page();
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
        zeros_ = room_.numbers(kernel_.lanes);
        std::fill_n(zeros_, kernel_.lanes, Real(0));
        lanes_of_block_.resize(program_.slots.size());
        for (std::size_t k = 0; k < program_.slots.size(); ++k)
            if (is_of_block(program_.slots[k])) lanes_of_block_[k] = kernel_.lanes;
        Places of_block(program_.slots.size());
        Panels<Real> last{};
        for (std::size_t k = 0; k < program_.slots.size(); ++k) {
            const Slot& slot = program_.slots[k];
            if (apart_ || !is_of_block(slot)) continue;
            if (slot.place == 0) last = group(slot, rows_of_blocks_);
            strides_[k] = last.stride;
            of_block[k] = place(last, slot);
        }
        for (std::size_t share = 0; share + 1 < first_bands_.size(); ++share) {
            room_.leave_a_page();
            Places of_share[2] = {of_block, of_block};
            Panels<Real> of_group[2]{};
            for (std::size_t k = 0; k < program_.slots.size(); ++k) {
                const Slot& slot = program_.slots[k];
                if ((is_of_block(slot) && !apart_) || is_carried[k]) continue;
                if (slot.place == 0) {
                    of_group[0] = of_group[1] = group(slot, is_of_block(slot) ? rows_of_shares_ : rows_of_bands_);
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

    // Of what each member makes ahead of its own rows.
    void make_runs() {
        if (!apart_ || program_.ahead.empty()) return;
        runs_.resize(shares_.count);
        for (std::size_t share = 0; share < shares_.count; ++share)
            for (const Block& block : blocks_) {
                std::vector<Run> runs;
                const Range own = rows_of_share(share);
                for (std::size_t t = block.first; t < block.last; ++t)
                    runs.push_back({rows_.before(t) + own.first, active(t, own)});
                runs_[share].push_back(std::move(runs));
            }
    }

    void make_pieces() {
        const std::vector<Gradient>& all = program_.gradients;
        for (std::size_t k = 0; k < all.size(); ++k) {
            const auto same =
                std::find_if(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k), [&](const auto& g) {
                    return g.left == all[k].left && g.before == all[k].before && g.first == all[k].first;
                });
            lefts_.push_back(static_cast<std::size_t>(same - all.begin()));
            pieces_.emplace_back();
            if (lefts_.back() != k || all[k].left < 0 || sweep_.tokens[all[k].left]) continue;
            for (const Block& block : blocks_) pieces_.back().push_back(pieces_of(all[k], block));
        }
    }

    void make_terms() {
        std::size_t most = 0;
        for (const Ahead& ahead : program_.ahead) most = std::max(most, ahead.terms.size());
        std::size_t of_products = 0;
        for (const std::vector<Factors>& product : program_.products)
            of_products = std::max(of_products, product.size());
        most += of_products;  // they may be made together
        for (const After& after : program_.after) most = std::max(most, after.terms.size());
        for (std::size_t share = 0; share < std::max(members_, shares_.count); ++share) {
            room_.leave_a_page();
            terms_.push_back(room_.template of<Term<Real>>(most));
        }
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

protected:
    const Kernels<Real>& kernel_ = kernels<Real>();
    const Sweep<Real>& sweep_;
    const Program& program_;
    Rows rows_;
    Shares shares_;
    std::size_t
        members_;     // one, where the steps cannot be shared: the rest alone is not worth what waking others costs
    bool by_blocks_;  // what needs no state is made block by block; else at each step
    bool apart_;      // each member makes it of its own rows, and has room for these alone
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
    Real* zeros_;                                // a register of them
    std::vector<Panels<Real>> sums_, after_;
    std::vector<std::vector<Panels<Real>>> inputs_;              // of each share, by array
    std::vector<Real*> own_;                                     // arrays of a block
    std::vector<std::vector<std::vector<Run>>> runs_;            // of each share and block
    std::vector<std::size_t> lefts_;                             // of a gradient the first with the same left factor
    std::vector<std::vector<std::vector<Piece<Real>>>> pieces_;  // of each gradient and block
    std::vector<Term<Real>*> terms_;                             // of each share, for one product
};

}  // namespace bptt
