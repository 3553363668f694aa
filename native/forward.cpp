// Side A of one layer: the order of the steps and who takes them; the arithmetic is the kernels' business.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "contract.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"

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
    Forward(const ForwardSweep<Real>& sweep, const Input<Real>* input, std::size_t threads)
        : sweep_(sweep),
          input_(input),
          rows_(sweep.steps),
          panels_(panels_of<Real>(sweep.H)),
          shares_(share_out(sweep.steps.B, sweep.H, panels_, kernel_.lanes * sizeof(Real), threads)),
          W_hh_(sweep.H, sweep.H),
          even_(sweep.steps.B, sweep.H),
          odd_(sweep.steps.B, sweep.H) {
        if (!input) return;
        ahead_ = shares_.of_columns || sweep.steps.B / shares_.count < rows_worth_a_product;
        if (ahead_) blocks_ = blocks_of(rows_, sweep.steps.T, rows_ahead, sweep.steps.reverse);
        std::size_t widest = sweep.steps.B;
        for (const Block& block : blocks_) widest = std::max(widest, rows_in(block));
        if (input->x) x_ = PanelBuffer<Real>(widest, input->I);
        if (input->x && ahead_) products_ = PanelBuffer<Real>(widest, sweep.H);
        gather_rows_ = input->tokens && input->I > rows_.all();
        W_xh_ = PanelBuffer<Real>(gather_rows_ ? rows_.all() : input->I, sweep.H);
        if (gather_rows_) {
            numbers_.resize(rows_.all());
            std::iota(numbers_.begin(), numbers_.end(), 0);
        }
        if (input->b_ih || input->b_hh) {
            bias_.resize(sweep.H);
            for (std::size_t j = 0; j < sweep.H; ++j)
                bias_[j] = (input->b_ih ? input->b_ih[j] : Real(0)) + (input->b_hh ? input->b_hh[j] : Real(0));
        }
    }

    void operator()(Member& member) const {
        member.phase(member.members(), [&](std::size_t share) { pack(part(panels_, share, member.members())); });
        if (!ahead_) return sweep(member, {0, sweep_.steps.T});
        for (const Block& block : blocks_) {
            const std::size_t begin = rows_.before(block.first), rows = rows_in(block);
            member.phase(member.members(), [&](std::size_t share) {
                const Range own = part(rows, share, member.members());
                add_input(begin + own.first, own.last - own.first, own.first, products_.from_row(own.first));
            });
            sweep(member, block);
        }
    }

private:
    std::size_t rows_in(const Block& block) const { return rows_.before(block.last) - rows_.before(block.first); }

    void pack(Range panels) const {
        const auto H = static_cast<std::ptrdiff_t>(sweep_.H);
        kernel_.pack(sweep_.W_hh, sweep_.H, sweep_.H, panels.first, panels.last, W_hh_.from_row(0));
        // With `reverse`, rows start at different steps: until then their h0 waits in whichever buffer is next.
        for (const PanelBuffer<Real>* states : {&even_, &odd_}) {
            if (sweep_.h0)
                kernel_.pack({sweep_.h0, H, 1}, sweep_.steps.B, sweep_.H, panels.first, panels.last,
                             states->from_row(0));
            else
                states->clear(panels.first, panels.last);
        }
        if (!input_) return;
        const Matrix<const Real> W_xh = input_->W_xh;
        if (!gather_rows_)
            kernel_.pack(W_xh, input_->I, sweep_.H, panels.first, panels.last, W_xh_.from_row(0));
        else
            for (std::size_t n = 0; n < rows_.all(); ++n)
                kernel_.pack({W_xh.at + input_->tokens[n] * W_xh.row_stride, W_xh.row_stride, W_xh.column_stride}, 1,
                             sweep_.H, panels.first, panels.last, W_xh_.from_row(n));
    }

    // (A2) x_t W_xh + b_h for `rows` rows, into the place of their states.
    void add_input(std::size_t first, std::size_t rows, std::size_t x_row, Panels<Real> scratch) const {
        Real* to = sweep_.h + (first + rows_.of_states(0)) * sweep_.H;
        const Real* bias = bias_.empty() ? nullptr : bias_.data();
        if (input_->tokens) {
            const std::int64_t* tokens = (gather_rows_ ? numbers_.data() : input_->tokens) + first;
            return kernel_.gather({rows, sweep_.H, 0, panels_, tokens, W_xh_.read(), bias, to});
        }
        const std::size_t I = input_->I;
        kernel_.pack({input_->x + first * I, static_cast<std::ptrdiff_t>(I), 1}, rows, I, 0, panels_of<Real>(I),
                     x_.from_row(x_row));
        kernel_.product({rows, I, sweep_.H, 0, panels_, x_.read(x_row), W_xh_.read(), bias, scratch, to});
    }

    void sweep(Member& member, const Block& block) const {
        const std::size_t B = sweep_.steps.B;
        const auto each_step = [&](const auto& visit) {
            for (std::size_t s = 0; s < block.last - block.first; ++s)
                visit(sweep_.steps.reverse ? block.last - 1 - s : block.first + s);
        };
        if (shares_.of_columns)
            each_step([&](std::size_t t) {
                member.phase(shares_.count,
                             [&](std::size_t share) { step(t, {0, B}, part(panels_, share, shares_.count)); });
            });
        else
            member.phase(shares_.count, [&](std::size_t share) {
                each_step([&](std::size_t t) { step(t, part(B, share, shares_.count), {0, panels_}); });
            });
    }

    void step(std::size_t t, Range rows, Range panels) const {
        rows.last = std::min(rows.last, rows_.of(t));
        if (rows.first >= rows.last) return;
        const bool is_even = (sweep_.steps.reverse ? sweep_.steps.T - 1 - t : t) % 2 == 0;
        const PanelBuffer<Real>&previous = is_even ? even_ : odd_, &next = is_even ? odd_ : even_;
        const std::size_t count = rows.last - rows.first, row = rows_.before(t) + rows.first;
        if (input_ && !ahead_) add_input(row, count, rows.first, next.from_row(rows.first));
        Real* h = sweep_.h + (row + rows_.of_states(0)) * sweep_.H;
        kernel_.forward_step({count, sweep_.H, panels.first, panels.last, sweep_.activation, W_hh_.read(),
                              previous.read(rows.first), next.from_row(rows.first),
                              input_ ? h : sweep_.a + row * sweep_.H, h,
                              sweep_.total ? sweep_.total + row * sweep_.H : nullptr});
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const ForwardSweep<Real>& sweep_;
    const Input<Real>* input_;
    Rows rows_;
    std::size_t panels_;
    Shares shares_;
    bool ahead_ = false;
    bool gather_rows_ = false;  // more tokens exist than are used: W_xh_ then holds one row for each of the N
    std::vector<Block> blocks_;
    std::vector<std::int64_t> numbers_;
    std::vector<Real> bias_;
    PanelBuffer<Real> W_hh_, W_xh_;
    PanelBuffer<Real> even_, odd_;  // h before steps 0, 2, ... and 1, 3, ... of the walk
    PanelBuffer<Real> x_, products_;
};

template <class Real>
void run(const ForwardSweep<Real>& sweep, const Input<Real>* input, std::size_t threads) {
    const Rows rows(sweep.steps);
    Real* h0 = sweep.h + rows.of_h0() * sweep.H;
    if (sweep.h0)
        std::copy_n(sweep.h0, sweep.steps.B * sweep.H, h0);
    else
        std::fill_n(h0, sweep.steps.B * sweep.H, Real(0));
    if (rows.all() == 0 || sweep.H == 0) return;
    threads = team_for(2.0 * rows.all() * sweep.H * (sweep.H + (input && input->x ? input->I : 0)), threads);
    run_team(threads, Forward<Real>(sweep, input, threads));
}

}  // namespace

template <class Real>
void forward_sweep(const ForwardSweep<Real>& sweep, std::size_t threads) {
    run<Real>(sweep, nullptr, threads);
}

template <class Real>
void forward_layer(const ForwardSweep<Real>& sweep, const Input<Real>& input, std::size_t threads) {
    if (input.tokens) {
        const std::size_t N = Rows(sweep.steps).all();
        const auto [least, most] = std::minmax_element(input.tokens, input.tokens + N);
        if (N != 0 && (*least < 0 || static_cast<std::size_t>(*most) >= input.I))
            throw std::out_of_range("tokens must lie in [0, " + std::to_string(input.I) + "), the input size; got " +
                                    std::to_string(*least) + " to " + std::to_string(*most));
    }
    run(sweep, &input, threads);
}

template <class Real>
void activate(Activation activation, const Real* a, Real* h, std::size_t count) {
    kernels<Real>().activate(activation, a, h, count);
}

template void forward_sweep(const ForwardSweep<float>&, std::size_t);
template void forward_sweep(const ForwardSweep<double>&, std::size_t);
template void forward_layer(const ForwardSweep<float>&, const Input<float>&, std::size_t);
template void forward_layer(const ForwardSweep<double>&, const Input<double>&, std::size_t);
template void activate(Activation, const float*, float*, std::size_t);
template void activate(Activation, const double*, double*, std::size_t);

}  // namespace bptt
