// Side A of one layer: the order of the steps and who takes them; the arithmetic is the kernels' business.
#include <algorithm>
#include <numeric>
#include <vector>

#include "buffer.hpp"
#include "contract.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"
#include "tokens.hpp"

namespace bptt {

namespace {

// Fewer rows than this use the weights too seldom for each time they are read. A share with fewer has its input's part
// of A2 computed ahead for several steps at once: few enough that they are still in the second-level cache when their
// steps come.
constexpr std::size_t rows_worth_a_product = 8;
constexpr std::size_t rows_ahead = 112;

template <class Real>
class Forward {
public:
    Forward(const ForwardSweep<Real>& sweep, const Input<Real>& input, std::size_t threads)
        : sweep_(sweep),
          input_(input),
          rows_(sweep.steps),
          panels_(panels_of<Real>(sweep.H)),
          shares_(share_out(sweep.steps.B, sweep.H, panels_, kernel_.lanes * sizeof(Real), threads)),
          W_hh_(sweep.W_hh.at ? sweep.H : 0, sweep.H) {
        const std::size_t B = sweep.steps.B, row_shares = shares_.of_columns ? 1 : shares_.count;
        ahead_ = input.x && (shares_.of_columns || B / row_shares < rows_worth_a_product);
        for (std::size_t share = 0; share < row_shares; ++share) {
            const Range own = part(B, share, row_shares);
            for (std::vector<PanelBuffer<Real>>& states : states_) states.emplace_back(own.last - own.first, sweep.H);
            if (input.x && !ahead_) x_.emplace_back(own.last - own.first, input.I);
        }
        if (!ahead_) {
            blocks_ = {{0, sweep.steps.T}};
        } else {
            blocks_ = blocks_of(rows_, sweep.steps.T, rows_ahead * row_shares, sweep.steps.reverse);
            for (std::size_t share = 0; share < row_shares; ++share) {
                std::size_t most = 0;
                for (const Block& block : blocks_) most = std::max(most, rows_of(part(B, share, row_shares), block));
                x_.emplace_back(most, input.I);
                products_.emplace_back(most, sweep.H);
            }
        }
        gather_rows_ = input.tokens && input.I > rows_.all();
        W_xh_ = PanelBuffer<Real>(gather_rows_ ? rows_.all() : input.I, sweep.H);
        if (gather_rows_) {
            numbers_.resize(rows_.all());
            std::iota(numbers_.begin(), numbers_.end(), 0);
        }
        bias_.resize(panels_ * kernel_.lanes);
        for (std::size_t j = 0; j < sweep.H; ++j)
            bias_[j] = (input.b_ih ? input.b_ih[j] : Real(0)) + (input.b_hh ? input.b_hh[j] : Real(0));
    }

    void operator()(Member& member) const {
        const std::size_t members = member.members();
        member.phase(members, [&](std::size_t share) { pack(part(panels_, share, members)); });
        if (!shares_.of_columns)
            return member.phase(shares_.count,
                                [&](std::size_t share) { walk(share, part(B(), share, shares_.count)); });
        for (const Block& block : blocks_) {
            if (ahead_)
                member.phase(members, [&](std::size_t share) {
                    const Range some = part(rows_of({0, B()}, block), share, members);
                    pack_input(rows_.before(block.first) + some.first, some.last - some.first,
                               x_[0].from_row(some.first));
                    multiply_input(0, some);
                });
            each_step(block, [&](std::size_t t) {
                member.phase(shares_.count, [&](std::size_t share) {
                    step(block, t, 0, {0, B()}, part(panels_, share, shares_.count));
                });
            });
        }
    }

private:
    std::size_t B() const { return sweep_.steps.B; }

    // How many of the rows `own` of the batch there are in the steps of a block.
    std::size_t rows_of(Range own, const Block& block) const {
        if (!sweep_.steps.batch_sizes) return (block.last - block.first) * (own.last - own.first);
        std::size_t sum = 0;
        for (std::size_t t = block.first; t < block.last; ++t)
            sum += std::clamp(rows_.of(t), own.first, own.last) - own.first;
        return sum;
    }

    template <class Visit>
    void each_step(const Block& block, const Visit& visit) const {
        for (std::size_t s = 0; s < block.last - block.first; ++s)
            visit(sweep_.steps.reverse ? block.last - 1 - s : block.first + s);
    }

    // All steps of some rows, by one member.
    void walk(std::size_t share, Range own) const {
        for (const Block& block : blocks_) {
            if (ahead_) look_ahead(block, share, own);
            each_step(block, [&](std::size_t t) { step(block, t, share, own, {0, panels_}); });
        }
    }

    void pack(Range panels) const {
        const auto H = static_cast<std::ptrdiff_t>(sweep_.H);
        if (sweep_.W_hh.at) kernel_.pack(sweep_.W_hh, sweep_.H, sweep_.H, panels.first, panels.last, W_hh_.from_row(0));
        for (std::size_t share = 0; share < states_[0].size(); ++share) {
            const Range own = part(sweep_.steps.B, share, states_[0].size());
            // With `reverse`, rows start at different steps: until then their h0 waits in whichever buffer is next.
            for (const std::vector<PanelBuffer<Real>>& states : states_)
                if (sweep_.h0)
                    kernel_.pack({sweep_.h0 + own.first * sweep_.H, H, 1}, own.last - own.first, sweep_.H, panels.first,
                                 panels.last, states[share].from_row(0));
                else
                    states[share].clear(panels.first, panels.last);
        }
        const Matrix<const Real> W_xh = input_.W_xh;
        if (!gather_rows_)
            kernel_.pack(W_xh, input_.I, sweep_.H, panels.first, panels.last, W_xh_.from_row(0));
        else
            for (std::size_t n = 0; n < rows_.all(); ++n)
                kernel_.pack({W_xh.at + input_.tokens[n] * W_xh.row_stride, W_xh.row_stride, W_xh.column_stride}, 1,
                             sweep_.H, panels.first, panels.last, W_xh_.from_row(n));
    }

    Panels<const Real> bias() const { return {bias_.data(), kernel_.lanes}; }

    // x of consecutive rows into panels.
    void pack_input(std::size_t first, std::size_t rows, Panels<Real> to) const {
        const std::size_t I = input_.I;
        kernel_.pack({input_.x + first * I, static_cast<std::ptrdiff_t>(I), 1}, rows, I, 0, panels_of<Real>(I), to);
    }

    // (A2) x_t W_xh + b_h of rows that lie one after the other in panels.
    void multiply_input(std::size_t share, Range rows) const {
        const Term<Real> term{input_.I, x_[share].read(rows.first), W_xh_.read()};
        kernel_.product({rows.last - rows.first,
                         sweep_.H,
                         0,
                         panels_,
                         {bias(), 0},
                         &term,
                         1,
                         products_[share].from_row(rows.first),
                         nullptr});
    }

    // The same for all rows of a share in a block.
    void look_ahead(const Block& block, std::size_t share, Range own) const {
        std::size_t done = 0;
        for (std::size_t t = block.first; t < block.last; ++t) {
            const std::size_t rows = rows_of(own, {t, t + 1});
            pack_input(rows_.before(t) + own.first, rows, x_[share].from_row(done));
            done += rows;
        }
        multiply_input(share, {0, done});
    }

    void step(const Block& block, std::size_t t, std::size_t share, Range rows, Range panels) const {
        const std::size_t done = ahead_ ? rows_of(rows, {block.first, t}) : 0;
        rows.last = std::min(rows.last, rows_.of(t));
        if (rows.first >= rows.last) return;
        const std::size_t walked = sweep_.steps.reverse ? sweep_.steps.T - 1 - t : t, H = sweep_.H;
        const Panels<const Real> previous = states_[walked % 2][share].read();
        const Panels<Real> next = states_[(walked + 1) % 2][share].from_row(0);
        const std::size_t count = rows.last - rows.first, row = rows_.before(t) + rows.first, L = kernel_.lanes;
        ForwardStep<Real> step{
            .rows = count,
            .H = H,
            .first = panels.first,
            .last = panels.last,
            .activation = sweep_.activation,
            .start = {{next.at, next.stride}, L},
            .terms = {{H, previous, W_hh_.read()}},
            .count = sweep_.W_hh.at ? 1u : 0u,
            .next = next,
            .h = sweep_.h + row * H,
            .total = sweep_.total ? sweep_.total + row * H : nullptr,
        };
        if (input_.tokens)
            kernel_.gather({count, panels.first, panels.last, (gather_rows_ ? numbers_.data() : input_.tokens) + row,
                            W_xh_.read(), bias(), next});
        else if (ahead_)
            step.start.at = products_[share].read(done);
        else {
            pack_input(row, count, x_[share].from_row(0));
            step.start = {bias(), 0};
            step.terms[1] = step.terms[0];
            step.terms[0] = {input_.I, x_[share].read(), W_xh_.read()};
            ++step.count;
        }
        kernel_.forward_step(step);
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const ForwardSweep<Real>& sweep_;
    const Input<Real>& input_;
    Rows rows_;
    std::size_t panels_;
    Shares shares_;
    bool ahead_ = false;
    bool gather_rows_ = false;  // more tokens exist than are used: W_xh_ then holds one row for each of the N
    std::vector<Block> blocks_;
    std::vector<std::int64_t> numbers_;
    std::vector<Real> bias_;  // b_h, with zeros up to the last panel's end
    PanelBuffer<Real> W_hh_, W_xh_;
    // h before steps 0, 2, ... and 1, 3, ... of the walk. Each share of rows has its own, far from the others': a core
    // that reads ahead of what it needs must not take lines that another is writing.
    std::vector<PanelBuffer<Real>> states_[2];
    std::vector<PanelBuffer<Real>> x_;
    std::vector<PanelBuffer<Real>> products_;
};

// Rows that have a step after t go on; the others end with it. Rows without any step end with h0.
template <class Real>
void copy_last_states(const ForwardSweep<Real>& sweep, const Rows& rows) {
    const auto [T, B, batch_sizes, reverse] = sweep.steps;
    const std::size_t H = sweep.H;
    std::size_t done = 0;
    for (std::size_t t = reverse ? std::min<std::size_t>(T, 1) : T; t-- > 0 && done < B;) {
        if (rows.of(t) <= done) continue;
        std::copy_n(sweep.h + (rows.before(t) + done) * H, (rows.of(t) - done) * H, sweep.h_n + done * H);
        done = rows.of(t);
    }
    if (sweep.h0)
        std::copy_n(sweep.h0 + done * H, (B - done) * H, sweep.h_n + done * H);
    else
        std::fill_n(sweep.h_n + done * H, (B - done) * H, Real(0));
}

}  // namespace

template <class Real>
void forward_layer(const ForwardSweep<Real>& sweep, const Input<Real>& input, std::size_t threads) {
    check_tokens(sweep.steps, input);
    const Rows rows(sweep.steps);
    if (rows.all() != 0 && sweep.H != 0) {
        threads = team_for(2.0 * rows.all() * sweep.H * (sweep.H + (input.x ? input.I : 0)), threads);
        run_team(threads, Forward<Real>(sweep, input, threads));
    }
    if (sweep.h_n) copy_last_states(sweep, rows);
}

template void forward_layer(const ForwardSweep<float>&, const Input<float>&, std::size_t);
template void forward_layer(const ForwardSweep<double>&, const Input<double>&, std::size_t);

}  // namespace bptt
