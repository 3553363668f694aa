// The order of the two sweeps through time; the arithmetic of a step is the kernels' business.
#include <algorithm>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "contract.hpp"
#include "kernels.hpp"

namespace bptt {

namespace {

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

    // In an array of B+N rows that holds h0 as well.
    std::size_t of_h0() const { return steps_.reverse ? all() : 0; }
    std::size_t of_states(std::size_t t) const { return before(t) + (steps_.reverse ? 0 : steps_.B); }

private:
    Steps steps_;
    std::vector<std::size_t> offsets_;
};

// A matrix of our own in panels.
template <class Real>
class PanelBuffer {
public:
    PanelBuffer(std::size_t rows, std::size_t columns)
        : lanes_(kernels<Real>().lanes), stride_(rows * lanes_), buffer_((columns + lanes_ - 1) / lanes_ * stride_) {}

    Panels<Real> from_row(std::size_t row) { return {buffer_.get() + row * lanes_, stride_}; }
    Panels<const Real> from_row(std::size_t row) const { return {buffer_.get() + row * lanes_, stride_}; }

private:
    std::size_t lanes_, stride_;
    Buffer<Real> buffer_;
};

template <class Real>
Matrix<Real> transposed(const Matrix<Real>& matrix) {
    return {matrix.at, matrix.column_stride, matrix.row_stride};
}

}  // namespace

template <class Real>
void forward_sweep(const ForwardSweep<Real>& sweep) {
    const auto& [T, B, batch_sizes, reverse] = sweep.steps;
    const std::size_t H = sweep.H;
    const Rows rows(sweep.steps);
    std::copy_n(sweep.h0, B * H, sweep.h + rows.of_h0() * H);
    if (rows.all() == 0 || H == 0) return;

    const Kernels<Real>& kernel = kernels<Real>();
    const std::size_t panels = (H + kernel.lanes - 1) / kernel.lanes;
    PanelBuffer<Real> W(H, H), previous(B, H), next(B, H);
    kernel.pack(sweep.W_hh, H, H, W.from_row(0));
    // In reverse, rows start at different steps: until then their h0 waits in whichever buffer is next.
    const Matrix<Real> h0{sweep.h0, static_cast<std::ptrdiff_t>(H), 1};
    kernel.pack(h0, B, H, previous.from_row(0));
    kernel.pack(h0, B, H, next.from_row(0));

    auto* from = &previous;
    auto* to = &next;
    for (std::size_t s = 0; s < T; ++s) {
        const std::size_t t = reverse ? T - 1 - s : s;
        const std::size_t begin = rows.before(t) * H;
        kernel.forward_step({rows.of(t), H, 0, panels, sweep.activation, std::as_const(W).from_row(0),
                             std::as_const(*from).from_row(0), to->from_row(0), sweep.a + begin,
                             sweep.h + rows.of_states(t) * H, sweep.total ? sweep.total + begin : nullptr});
        std::swap(from, to);
    }
}

template <class Real>
void backward_sweep(const BackwardSweep<Real>& sweep) {
    const auto& [T, B, batch_sizes, reverse] = sweep.steps;
    const std::size_t H = sweep.H;
    const Rows rows(sweep.steps);
    const std::size_t ever_active = T == 0 ? 0 : rows.of(0);
    std::fill(sweep.dh0 + ever_active * H, sweep.dh0 + B * H, Real(0));
    if (rows.all() == 0 || H == 0) return;

    const Kernels<Real>& kernel = kernels<Real>();
    const std::size_t panels = (H + kernel.lanes - 1) / kernel.lanes;
    PanelBuffer<Real> W(H, H), future(B, H), next(B, H);
    kernel.pack(transposed(sweep.W_hh), H, H, W.from_row(0));
    const Panels<const Real> weights = std::as_const(W).from_row(0);

    auto* from = &future;
    auto* to = &next;
    std::size_t active = 0;
    // (B11) at a row's first step: ∂h_0
    const auto leave = [&](std::size_t first, std::size_t last) {
        kernel.product({last - first, H, H, 0, panels, weights, std::as_const(*from).from_row(first),
                        to->from_row(first), sweep.dh0 + first * H});
    };
    for (std::size_t s = 0; s < T; ++s) {
        const std::size_t t = reverse ? s : T - 1 - s;
        const std::size_t now = rows.of(t), staying = std::min(active, now);
        if (now < active) leave(now, active);
        const auto step = [&](std::size_t first, std::size_t last, Panels<const Real> cotangent) {
            const std::size_t begin = (rows.before(t) + first) * H;
            kernel.backward_step({last - first, H, 0, panels, sweep.activation, weights, cotangent, to->from_row(first),
                                  sweep.dh + begin, sweep.h + (rows.of_states(t) + first) * H, sweep.da + begin,
                                  sweep.total ? sweep.total + begin : nullptr});
        };
        step(0, staying, std::as_const(*from).from_row(0));
        step(staying, now, {nullptr, 0});  // the rows whose last step this is
        std::swap(from, to);
        active = now;
    }
    leave(0, active);
}

template <class Real>
void activate(Activation activation, const Real* a, Real* h, std::size_t count) {
    kernels<Real>().activate(activation, a, h, count);
}

template void forward_sweep(const ForwardSweep<float>&);
template void forward_sweep(const ForwardSweep<double>&);
template void backward_sweep(const BackwardSweep<float>&);
template void backward_sweep(const BackwardSweep<double>&);
template void activate(Activation, const float*, float*, std::size_t);
template void activate(Activation, const double*, double*, std::size_t);

}  // namespace bptt
