// Side B of one layer: blocks of time from the end, each swept and then used for the weight gradients while it is hot.
#include <algorithm>
#include <vector>

#include "buffer.hpp"
#include "contract.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"
#include "tokens.hpp"

namespace bptt {

// The ∂a and states of a block should stay in the second-level cache, and there must be enough of them to make reading
// and writing the sums of the weight gradients once per block cheap.
std::size_t rows_of_a_block(std::size_t H) {
    constexpr std::size_t elements_in_cache = 1 << 15;
    return std::clamp<std::size_t>(elements_in_cache / std::max<std::size_t>(H, 1), 128, 512);
}

namespace {

template <class Real>
class Backward {
public:
    Backward(const BackwardSweep<Real>& sweep, const Input<Real>& input, const Gradients<Real>& gradients,
             std::size_t threads)
        : sweep_(sweep),
          input_(input),
          gradients_(gradients),
          rows_(sweep.steps),
          panels_(panels_of<Real>(sweep.H)),
          shares_(share_out(sweep.steps.B, sweep.H, panels_, kernel_.lanes * sizeof(Real), threads)),
          blocks_(blocks_of(rows_, sweep.steps.T, rows_of_a_block(sweep.H), !sweep.steps.reverse)),
          W_hh_(sweep.W_hh.at ? sweep.H : 0, sweep.H),
          leaving_(sweep.steps.B, sweep.H) {
        std::size_t widest = 0;
        for (const Block& block : blocks_) widest = std::max(widest, rows_in(block));
        for (PanelBuffer<Real>& da : da_) da = PanelBuffer<Real>(widest, sweep.H);
        if (gradients.dx) {
            W_xh_ = PanelBuffer<Real>(sweep.H, input.I);
            dx_ = PanelBuffer<Real>(widest, input.I);
        }
        if (gradients.dW_xh.at) dW_xh_ = PanelBuffer<Real>(input.I, sweep.H);
        if (gradients.dW_hh.at) dW_hh_ = PanelBuffer<Real>(sweep.H, sweep.H);
        if (gradients.db) db_ = PanelBuffer<Real>(1, sweep.H);
        if (gradients.dW_hh.at)
            for (const Block& block : blocks_) previous_states_.push_back(states_before(block));
        if (!sweep.dh_n) zeros_.resize(sweep.H);
    }

    void operator()(Member& member) const {
        const std::size_t members = member.members();
        member.phase(members, [&](std::size_t share) { begin(share, members); });
        for (std::size_t b = 0; b < blocks_.size(); ++b) {
            sweep(member, b);
            add_gradients(member, b);
        }
        if (!blocks_.empty())
            member.phase(shares_.count, [&](std::size_t share) {
                const std::size_t b = blocks_.size() - 1, B = sweep_.steps.B;
                if (shares_.of_columns)
                    leave(b, last_walked(), {0, B}, part(panels_, share, shares_.count));
                else
                    leave(b, last_walked(), part(B, share, shares_.count), {0, panels_});
            });
        member.phase(members, [&](std::size_t share) { write_gradients(part(panels_, share, members)); });
    }

private:
    std::size_t rows_in(const Block& block) const { return rows_.before(block.last) - rows_.before(block.first); }
    std::size_t step_walked_before(std::size_t t) const { return sweep_.steps.reverse ? t - 1 : t + 1; }
    std::size_t last_walked() const { return sweep_.steps.reverse ? sweep_.steps.T - 1 : 0; }

    // Row `row` of step t in the panels of its block.
    std::size_t place(std::size_t b, std::size_t t, std::size_t row) const {
        return rows_.before(t) - rows_.before(blocks_[b].first) + row;
    }

    void begin(std::size_t share, std::size_t members) const {
        const Range panels = part(panels_, share, members);
        const Matrix<const Real>& W_hh = sweep_.W_hh;
        if (W_hh.at)
            kernel_.pack({W_hh.at, W_hh.column_stride, W_hh.row_stride}, sweep_.H, sweep_.H, panels.first, panels.last,
                         W_hh_.from_row(0));
        if (gradients_.dx) {
            const Matrix<const Real>& W_xh = input_.W_xh;
            const Range columns = part(panels_of<Real>(input_.I), share, members);
            kernel_.pack({W_xh.at, W_xh.column_stride, W_xh.row_stride}, sweep_.H, input_.I, columns.first,
                         columns.last, W_xh_.from_row(0));
        }
        if (gradients_.accumulate) return go_on_from_gradients(panels);
        db_.clear(panels.first, panels.last);
        const bool no_block_writes_first = rows_.all() == 0;
        if (no_block_writes_first || input_.tokens) dW_xh_.clear(panels.first, panels.last);
        if (no_block_writes_first) dW_hh_.clear(panels.first, panels.last);
    }

    void go_on_from_gradients(Range panels) const {
        const auto read = [&](const Matrix<Real>& from, std::size_t rows, const PanelBuffer<Real>& sum) {
            if (from.at)
                kernel_.pack({from.at, from.row_stride, from.column_stride}, rows, sweep_.H, panels.first, panels.last,
                             sum.from_row(0));
        };
        read(gradients_.dW_xh, input_.I, dW_xh_);
        read(gradients_.dW_hh, sweep_.H, dW_hh_);
        read({gradients_.db, 0, 1}, 1, db_);
    }

    void sweep(Member& member, std::size_t b) const {
        const Block& block = blocks_[b];
        const std::size_t B = sweep_.steps.B;
        const auto each_step = [&](const auto& visit) {
            for (std::size_t s = 0; s < block.last - block.first; ++s)
                visit(sweep_.steps.reverse ? block.first + s : block.last - 1 - s);
        };
        if (shares_.of_columns)
            each_step([&](std::size_t t) {
                member.phase(shares_.count,
                             [&](std::size_t share) { step(b, t, {0, B}, part(panels_, share, shares_.count)); });
            });
        else
            member.phase(shares_.count, [&](std::size_t share) {
                each_step([&](std::size_t t) { step(b, t, part(B, share, shares_.count), {0, panels_}); });
            });
    }

    void step(std::size_t b, std::size_t t, Range rows, Range panels) const {
        const bool first_in_block = t == (sweep_.steps.reverse ? blocks_[b].first : blocks_[b].last - 1);
        const bool first_of_all = first_in_block && b == 0;
        const std::size_t before = first_of_all ? t : step_walked_before(t), before_b = first_in_block ? b - 1 : b;
        const std::size_t active = first_of_all ? 0 : rows_.of(before), now = rows_.of(t);
        if (now < active) leave(before_b, before, {std::max(rows.first, now), rows.last}, panels);

        const auto take = [&](Range some, Panels<const Real> future) {
            const PanelBuffer<Real>& da = da_[b % 2];
            const Panels<Real> next = da.from_row(place(b, t, some.first));
            if (!future.at) cotangent_of_last_state(some, panels, next);
            const std::size_t H = sweep_.H, at = (rows_.before(t) + some.first) * H;
            kernel_.backward_step({some.last - some.first, H, panels.first, panels.last, sweep_.activation,
                                   W_hh_.read(), future, next, sweep_.dh ? sweep_.dh + at : nullptr, sweep_.h + at,
                                   sweep_.da ? sweep_.da + at : nullptr, sweep_.total ? sweep_.total + at : nullptr});
        };
        const Range going_on{rows.first, std::min({rows.last, active, now})};
        if (going_on.first < going_on.last)
            take(going_on, sweep_.W_hh.at ? da_[before_b % 2].read(place(before_b, before, going_on.first))
                                          : Panels<const Real>{});
        const Range at_their_last_step{std::max(rows.first, active), std::min(rows.last, now)};
        if (at_their_last_step.first < at_their_last_step.last) take(at_their_last_step, {nullptr, 0});
    }

    void cotangent_of_last_state(Range rows, Range panels, Panels<Real> to) const {
        const auto H = static_cast<std::ptrdiff_t>(sweep_.H);
        const Matrix<const Real> dh_n = sweep_.dh_n ? Matrix<const Real>{sweep_.dh_n + rows.first * sweep_.H, H, 1}
                                                    : Matrix<const Real>{zeros_.data(), 0, 1};
        kernel_.pack(dh_n, rows.last - rows.first, sweep_.H, panels.first, panels.last, to);
    }

    // (B11) ∂h_0 of the rows whose walk ended with step t.
    void leave(std::size_t b, std::size_t t, Range rows, Range panels) const {
        rows.last = std::min(rows.last, rows_.of(t));
        if (!sweep_.dh0 || rows.first >= rows.last) return;
        const Term<Real> term{sweep_.H, da_[b % 2].read(place(b, t, rows.first)), W_hh_.read()};
        kernel_.product({rows.last - rows.first,
                         sweep_.H,
                         panels.first,
                         panels.last,
                         {},
                         &term,
                         1,
                         leaving_.from_row(rows.first),
                         sweep_.dh0 + rows.first * sweep_.H});
    }

    void add_gradients(Member& member, std::size_t b) const {
        if (!gradients_.dx && !gradients_.dW_xh.at && !gradients_.dW_hh.at && !gradients_.db) return;
        const std::size_t rows = rows_in(blocks_[b]), members = member.members();
        member.phase(members, [&](std::size_t share) {
            const Range own_panels = part(panels_, share, members);
            const Panels<const Real> da = da_[b % 2].read();
            if (gradients_.db)  // B8
                kernel_.bias_gradient(rows, own_panels.first, own_panels.last, da, db_.from_row(0));
            const std::size_t begin = rows_.before(blocks_[b].first);
            if (gradients_.dW_xh.at && input_.tokens)  // B9
                kernel_.token_gradient(
                    {rows, own_panels.first, own_panels.last, input_.tokens + begin, da, dW_xh_.from_row(0)});
            if (gradients_.dW_xh.at && input_.x) {  // B9
                const Piece<Real> x{input_.x + begin * input_.I, rows};
                add_weight_gradient(share, members,
                                    {.left_columns = input_.I,
                                     .first_row = 0,
                                     .last_row = 0,
                                     .first = 0,
                                     .last = 0,
                                     .left = &x,
                                     .pieces = 1,
                                     .right = da,
                                     .sum = dW_xh_.from_row(0),
                                     .first_block = b == 0 && !gradients_.accumulate});
            }
            if (gradients_.dW_hh.at)  // B10
                add_weight_gradient(share, members,
                                    {.left_columns = sweep_.H,
                                     .first_row = 0,
                                     .last_row = 0,
                                     .first = 0,
                                     .last = 0,
                                     .left = previous_states_[b].data(),
                                     .pieces = previous_states_[b].size(),
                                     .right = da,
                                     .sum = dW_hh_.from_row(0),
                                     .first_block = b == 0 && !gradients_.accumulate});
            if (gradients_.dx) {  // B11
                const Range own = part(rows, share, members);
                const Term<Real> term{sweep_.H, da_[b % 2].read(own.first), W_xh_.read()};
                kernel_.product({own.last - own.first,
                                 input_.I,
                                 0,
                                 panels_of<Real>(input_.I),
                                 {},
                                 &term,
                                 1,
                                 dx_.from_row(own.first),
                                 gradients_.dx + (begin + own.first) * input_.I});
            }
        });
    }

    // Shared by rows of the sum where there are enough for tall tiles, else by panels.
    void add_weight_gradient(std::size_t share, std::size_t members, WeightGradient<Real> gradient) const {
        constexpr std::size_t enough = 12;
        const bool by_rows = gradient.left_columns >= enough * members;
        const Range rows = by_rows ? part(gradient.left_columns, share, members) : Range{0, gradient.left_columns};
        const Range panels = by_rows ? Range{0, panels_} : part(panels_, share, members);
        gradient.first_row = rows.first;
        gradient.last_row = rows.last;
        gradient.first = panels.first;
        gradient.last = panels.last;
        kernel_.weight_gradient(gradient);
    }

    void write_gradients(Range panels) const {
        const auto write = [&](const PanelBuffer<Real>& sum, std::size_t rows, const Matrix<Real>& to) {
            if (to.at) kernel_.unpack(sum.read(), rows, sweep_.H, panels.first, panels.last, to);
        };
        write(dW_xh_, input_.I, gradients_.dW_xh);
        write(dW_hh_, sweep_.H, gradients_.dW_hh);
        write(db_, 1, {gradients_.db, 0, 1});
    }

    // h_{t-1} of the rows of a block, in their order.
    std::vector<Piece<Real>> states_before(const Block& block) const {
        const auto [T, B, batch_sizes, reverse] = sweep_.steps;
        const std::size_t H = sweep_.H;
        const auto piece = [&](std::size_t row, std::size_t rows) { return Piece<Real>{sweep_.h + row * H, rows}; };
        const auto initial = [&](std::size_t row, std::size_t rows) {
            return Piece<Real>{sweep_.h0 ? sweep_.h0 + row * H : nullptr, rows};
        };
        if (!batch_sizes && reverse) {
            const std::size_t row = (block.first + 1) * B, rows = rows_in(block);
            if (block.last < T) return {piece(row, rows)};
            return {piece(row, rows - B), initial(0, B)};
        }
        if (!batch_sizes) {
            if (block.first > 0) return {piece((block.first - 1) * B, rows_in(block))};
            return {initial(0, B), piece(0, rows_in(block) - B)};
        }
        std::vector<Piece<Real>> pieces;
        for (std::size_t t = block.first; t < block.last; ++t) {
            const bool first = t == (reverse ? T - 1 : 0);
            const std::size_t before = reverse ? t + 1 : t - 1;
            const std::size_t going_on = first ? 0 : std::min(rows_.of(t), rows_.of(before));
            if (going_on != 0) pieces.push_back(piece(rows_.before(before), going_on));
            if (going_on != rows_.of(t)) pieces.push_back(initial(going_on, rows_.of(t) - going_on));
        }
        return pieces;
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const BackwardSweep<Real>& sweep_;
    const Input<Real>& input_;
    const Gradients<Real>& gradients_;
    Rows rows_;
    std::size_t panels_;
    Shares shares_;
    std::vector<Block> blocks_;
    std::vector<std::vector<Piece<Real>>> previous_states_;  // of each block
    std::vector<Real> zeros_;
    PanelBuffer<Real> W_hh_, W_xh_;  // transposed
    PanelBuffer<Real> da_[2];        // of even and odd blocks
    PanelBuffer<Real> leaving_, dx_;
    PanelBuffer<Real> dW_xh_, dW_hh_, db_;
};

}  // namespace

template <class Real>
void backward_layer(const BackwardSweep<Real>& sweep, const Input<Real>& input, const Gradients<Real>& gradients,
                    std::size_t threads) {
    check_tokens(sweep.steps, input);
    const Rows rows(sweep.steps);
    const std::size_t H = sweep.H, B = sweep.steps.B, N = rows.all();
    if (sweep.dh0) {  // a row without steps: its last state is its first
        const std::size_t ever_active = sweep.steps.T == 0 ? 0 : rows.of(0);
        for (std::size_t i = ever_active * H; i < B * H; ++i) sweep.dh0[i] = sweep.dh_n ? sweep.dh_n[i] : Real(0);
    }
    const std::size_t products = gradients.dW_hh.at ? 2 : 1;
    const std::size_t input_products = input.x ? (gradients.dx ? 1 : 0) + (gradients.dW_xh.at ? 1 : 0) : 0;
    const double operations =
        2.0 * static_cast<double>(N * H) * static_cast<double>(products * H + input_products * input.I);
    threads = team_for(operations, threads);
    run_team(threads, Backward<Real>(sweep, input, gradients, threads));
}

template void backward_layer(const BackwardSweep<float>&, const Input<float>&, const Gradients<float>&, std::size_t);
template void backward_layer(const BackwardSweep<double>&, const Input<double>&, const Gradients<double>&, std::size_t);

}  // namespace bptt
