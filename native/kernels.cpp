// The kernels, compiled once for each instruction set: BPTT_ISA names it and the flags of the file select it.
//
// Only C-style code here, all of it in the anonymous namespace: an inline function of the standard library compiled
// with AVX-512 could be the copy the linker keeps for everybody.
#include "kernels.hpp"

#include "activation.hpp"
#include "vector.hpp"

#define BPTT_JOIN(a, b, c) a##b##_##c
#define BPTT_NAME(real, isa) BPTT_JOIN(kernels_, real, isa)
#define BPTT_KERNELS(real) BPTT_NAME(real, BPTT_ISA)

namespace bptt {
namespace {

constexpr std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }
constexpr std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

// A register tile is `rows` x `vectors` accumulators, beside them a row of W and one broadcast state. Tall tiles read W
// least often; a short one takes more vectors so that enough independent chains hide the latency of multiply-add.
constexpr std::size_t tallest_tile = registers == 32 ? 14 : 6;
constexpr std::size_t widest_tile(std::size_t rows) { return rows == 1 ? 8 : smaller(8, (registers - 1) / (rows + 1)); }

// (A2, B11) to = from W for one tile: each element is one chain over k in ascending order, whatever the tile's shape.
template <class Real, std::size_t rows, std::size_t vectors>
void tile(std::size_t inner, Panels<const Real> from, Panels<const Real> W, Panels<Real> to) {
    constexpr std::size_t L = lanes<Real>;
    Vector<Real> sum[rows][vectors] = {};
    const Real* w = W.at;
    for (std::size_t begin = 0; begin < inner; begin += L, from.at += from.stride) {
        const Real* end = w + L * smaller(L, inner - begin);
        for (const Real* state = from.at; w != end; w += L, ++state) {
            Vector<Real> weight[vectors];
#pragma GCC unroll 8
            for (std::size_t v = 0; v < vectors; ++v) weight[v] = load(w + v * W.stride);
#pragma GCC unroll 14
            for (std::size_t r = 0; r < rows; ++r) {
                const Vector<Real> value = broadcast(state[r * L]);
#pragma GCC unroll 8
                for (std::size_t v = 0; v < vectors; ++v) sum[r][v] += value * weight[v];
            }
        }
    }
#pragma GCC unroll 14
    for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (std::size_t v = 0; v < vectors; ++v) store(to.at + v * to.stride + r * L, sum[r][v]);
}

template <class Real>
using Tile = void (*)(std::size_t, Panels<const Real>, Panels<const Real>, Panels<Real>);

template <class Real, std::size_t rows, std::size_t vectors>
constexpr Tile<Real> tile_within_registers() {
    if constexpr (rows <= tallest_tile && vectors <= widest_tile(rows))
        return tile<Real, rows, vectors>;
    else
        return nullptr;
}

template <class Real, std::size_t rows>
constexpr Tile<Real> tiles_of_height[] = {
    tile_within_registers<Real, rows, 1>(), tile_within_registers<Real, rows, 2>(),
    tile_within_registers<Real, rows, 3>(), tile_within_registers<Real, rows, 4>(),
    tile_within_registers<Real, rows, 5>(), tile_within_registers<Real, rows, 6>(),
    tile_within_registers<Real, rows, 7>(), tile_within_registers<Real, rows, 8>(),
};

template <class Real>
constexpr const Tile<Real>* tiles[] = {
    tiles_of_height<Real, 1>,  tiles_of_height<Real, 2>,  tiles_of_height<Real, 3>,  tiles_of_height<Real, 4>,
    tiles_of_height<Real, 5>,  tiles_of_height<Real, 6>,  tiles_of_height<Real, 7>,  tiles_of_height<Real, 8>,
    tiles_of_height<Real, 9>,  tiles_of_height<Real, 10>, tiles_of_height<Real, 11>, tiles_of_height<Real, 12>,
    tiles_of_height<Real, 13>, tiles_of_height<Real, 14>,
};

// The part of a panel matrix that one tile covers.
struct Patch {
    std::size_t first_row, rows, first_panel, panels;
};

template <class Real, class P>
P* at(const Panels<P>& panels, std::size_t row, std::size_t panel) {
    return panels.at + panel * panels.stride + row * lanes<Real>;
}

// Covers rows x [first, last) panels of `to` with tiles of near equal shape and finishes each while it is hot. Columns
// outside, so that weights beyond the first-level cache are fetched once for all rows.
template <class Real, class Finish>
void multiply(std::size_t rows, std::size_t inner, std::size_t first, std::size_t last, const Panels<const Real>& from,
              const Panels<const Real>& W, const Panels<Real>& to, const Finish& finish) {
    const std::size_t bands = divide_up(rows, tallest_tile);
    if (bands == 0) return;
    const std::size_t columns = last - first, groups = divide_up(columns, widest_tile(divide_up(rows, bands)));
    for (std::size_t group = 0; group < groups; ++group) {
        const std::size_t panel = first + columns * group / groups;
        const std::size_t panels = first + columns * (group + 1) / groups - panel;
        for (std::size_t band = 0; band < bands; ++band) {
            const std::size_t row = rows * band / bands;
            const Patch patch{row, rows * (band + 1) / bands - row, panel, panels};
            tiles<Real>[patch.rows - 1][panels - 1](inner, {at<Real>(from, row, 0), from.stride},
                                                    {at<Real>(W, 0, panel), W.stride},
                                                    {at<Real>(to, row, panel), to.stride});
            finish(patch);
        }
    }
}

// Visits every vector of a patch: visit(panels offset, row-major offset, elements present).
template <class Real, class Visit>
inline __attribute__((always_inline)) void each_vector(const Patch& patch, std::size_t columns, std::size_t stride,
                                                       const Visit& visit) {
    constexpr std::size_t L = lanes<Real>;
    for (std::size_t p = patch.first_panel; p < patch.first_panel + patch.panels; ++p)
        for (std::size_t r = patch.first_row; r < patch.first_row + patch.rows; ++r)
            visit(p * stride + r * L, r * columns + p * L, smaller(L, columns - p * L));
}

template <Activation activation, class Real>
void finish_forward(const ForwardStep<Real>& step, const Patch& patch) {
    each_vector<Real>(patch, step.H, step.next.stride, [&](std::size_t panel, std::size_t row, std::size_t count) {
        const Vector<Real> a = load(step.a + row, count) + load(step.next.at + panel);  // A2
        if (step.total) store(step.total + row, a, count);
        const Vector<Real> h = phi<Real>(activation, a);  // A3
        store(step.h + row, h, count);
        store(step.next.at + panel, h);  // A4
    });
}

template <Activation activation, class Real>
void finish_backward(const BackwardStep<Real>& step, const Patch& patch) {
    each_vector<Real>(patch, step.H, step.next.stride, [&](std::size_t panel, std::size_t row, std::size_t count) {
        const Vector<Real> future = step.future.at ? load(step.next.at + panel) : Vector<Real>{};
        const Vector<Real> dh = load(step.dh + row, count) + future;                           // B6
        const Vector<Real> da = through_phi<Real>(activation, dh, load(step.h + row, count));  // B7
        if (step.total) store(step.total + row, dh, count);
        store(step.da + row, da, count);
        store(step.next.at + panel, da);  // B11
    });
}

template <class Real>
void forward_step(const ForwardStep<Real>& step) {
    multiply<Real>(step.rows, step.H, step.first, step.last, step.previous, step.W, step.next, [&](const Patch& patch) {
        switch (step.activation) {
            case Activation::tanh: return finish_forward<Activation::tanh>(step, patch);
            case Activation::relu: return finish_forward<Activation::relu>(step, patch);
            case Activation::sigmoid: return finish_forward<Activation::sigmoid>(step, patch);
            case Activation::identity: return finish_forward<Activation::identity>(step, patch);
        }
    });
}

template <class Real>
void backward_step(const BackwardStep<Real>& step) {
    const auto finish = [&](const Patch& patch) {
        switch (step.activation) {
            case Activation::tanh: return finish_backward<Activation::tanh>(step, patch);
            case Activation::relu: return finish_backward<Activation::relu>(step, patch);
            case Activation::sigmoid: return finish_backward<Activation::sigmoid>(step, patch);
            case Activation::identity: return finish_backward<Activation::identity>(step, patch);
        }
    };
    if (step.future.at)
        multiply<Real>(step.rows, step.H, step.first, step.last, step.future, step.W, step.next, finish);
    else
        finish({0, step.rows, step.first, step.last - step.first});
}

template <class Real>
void product(const Product<Real>& p) {
    multiply<Real>(p.rows, p.inner, p.first, p.last, p.from, p.W, p.scratch, [&](const Patch& patch) {
        each_vector<Real>(patch, p.columns, p.scratch.stride,
                          [&](std::size_t panel, std::size_t row, std::size_t count) {
                              store(p.to + row, load(p.scratch.at + panel), count);
                          });
    });
}

template <class Real>
void pack(const Matrix<Real>& matrix, std::size_t rows, std::size_t columns, const Panels<Real>& panels) {
    constexpr std::size_t L = lanes<Real>;
    for (std::size_t column = 0; column < columns; column += L) {
        const std::size_t count = smaller(L, columns - column);
        for (std::size_t r = 0; r < rows; ++r) {
            const Real* from = matrix.at + static_cast<std::ptrdiff_t>(r) * matrix.row_stride +
                               static_cast<std::ptrdiff_t>(column) * matrix.column_stride;
            Real* to = at<Real>(panels, r, column / L);
            if (matrix.column_stride == 1) {
                store(to, load(from, count));
                continue;
            }
            for (std::size_t c = 0; c < L; ++c)
                to[c] = c < count ? from[static_cast<std::ptrdiff_t>(c) * matrix.column_stride] : Real(0);
        }
    }
}

template <class Real>
void activate(Activation activation, const Real* a, Real* h, std::size_t count) {
    for (std::size_t i = 0; i < count; i += lanes<Real>) {
        const std::size_t present = smaller(lanes<Real>, count - i);
        store(h + i, phi<Real>(activation, load(a + i, present)), present);
    }
}

template <class Real>
constexpr Kernels<Real> table{lanes<Real>,   forward_step<Real>, backward_step<Real>,
                              product<Real>, pack<Real>,         activate<Real>};

}  // namespace

extern const Kernels<float> BPTT_KERNELS(float);
extern const Kernels<double> BPTT_KERNELS(double);
constexpr Kernels<float> BPTT_KERNELS(float) = table<float>;
constexpr Kernels<double> BPTT_KERNELS(double) = table<double>;

}  // namespace bptt
