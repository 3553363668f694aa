// The kernels, compiled once for each instruction set: BPTT_ISA names it and the flags of the file select it.
//
// Only C-style code here, all of it in the anonymous namespace: an inline function of the standard library compiled
// with AVX-512 could be the copy the linker keeps for everybody.
#include "kernels.hpp"

#include "activation.hpp"
#include "entries.hpp"
#include "vector.hpp"

#define BPTT_JOIN(a, b, c) a##b##_##c
#define BPTT_NAME(real, isa) BPTT_JOIN(kernels_, real, isa)
#define BPTT_KERNELS(real) BPTT_NAME(real, BPTT_ISA)

namespace bptt {
namespace {

constexpr std::size_t smaller(std::size_t a, std::size_t b) { return a < b ? a : b; }
constexpr std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

template <class Real, class P>
P* at(const Panels<P>& panels, std::size_t row, std::size_t panel) {
    return panels.at + panel * panels.stride + row * lanes<Real>;
}

// A register tile is `rows` x `vectors` accumulators, beside them a row of W and one broadcast state. Tall tiles read W
// least often; a short one takes more vectors so that enough independent chains hide the latency of multiply-add.
constexpr std::size_t tallest_tile = registers == 32 ? 14 : 6;
constexpr std::size_t widest_tile(std::size_t rows) { return rows == 1 ? 8 : smaller(8, (registers - 1) / (rows + 1)); }

// The innermost loop: `count` rank-one updates of a register tile, each element one chain of multiply-adds in the order
// of the loop, whatever the tile's shape. Row r of the left factor lies `apart` elements after row r-1.
template <std::size_t apart, class Real, std::size_t rows, std::size_t vectors>
inline __attribute__((always_inline)) void update(Vector<Real> (&sum)[rows][vectors], std::size_t count,
                                                  const Real* left, std::size_t left_advance, const Real* right,
                                                  std::size_t right_stride) {
    for (std::size_t k = 0; k < count; ++k, left += left_advance, right += lanes<Real>) {
        Vector<Real> weight[vectors];
#pragma GCC unroll 8
        for (std::size_t v = 0; v < vectors; ++v) weight[v] = load(right + v * right_stride);
#pragma GCC unroll 14
        for (std::size_t r = 0; r < rows; ++r) {
            const Vector<Real> value = broadcast(left[r * apart]);
#pragma GCC unroll 8
            for (std::size_t v = 0; v < vectors; ++v) sum[r][v] += value * weight[v];
        }
    }
}

// A longer sum of one term is cut into chains of this many multiply-adds, which are added: the rounding error of a
// thousand terms of one sign stays near that of a library's product. A multiple of every number of lanes.
constexpr std::size_t longest_chain = 256;

// to = start + left W + ..., all in panels.
template <class Real>
struct TimesWeights {
    Start<Real> start;
    const Term<Real>* terms;
    std::size_t count;
    Panels<Real> to;

    // The chain goes to where the result will be, beside those before it in this term; the next begins with zero.
    template <std::size_t rows, std::size_t vectors>
    static void end_of_chain(const TimesWeights& all, std::size_t row, std::size_t panel, bool others,
                             Vector<Real> (&sum)[rows][vectors]) {
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t v = 0; v < vectors; ++v) {
                Real* to = at<Real>(all.to, row + r, panel + v);
                store(to, others ? load(to) + sum[r][v] : sum[r][v]);
                sum[r][v] = Vector<Real>{};
            }
    }

    template <std::size_t rows, std::size_t vectors>
    static void tile(const TimesWeights& all, std::size_t row, std::size_t panel) {
        constexpr std::size_t L = lanes<Real>;
        Vector<Real> sum[rows][vectors] = {};
        if (const Real* start = all.start.at.at) {
            start += panel * all.start.at.stride + row * all.start.row_step;
#pragma GCC unroll 14
            for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
                for (std::size_t v = 0; v < vectors; ++v)
                    sum[r][v] = load(start + v * all.start.at.stride + r * all.start.row_step);
        }
        for (const Term<Real>* term = all.terms; term != all.terms + all.count; ++term) {
            const Real* left = at<Real>(term->left, row, 0);
            const Real* right = at<Real>(term->W, 0, panel);
            for (std::size_t begin = 0; begin < term->inner; begin += longest_chain) {
                if (begin != 0) end_of_chain(all, row, panel, begin != longest_chain, sum);
                const std::size_t end = smaller(begin + longest_chain, term->inner);
                for (std::size_t k = begin; k < end; k += L, left += term->left.stride, right += L * L)
                    update<L>(sum, smaller(L, end - k), left, 1, right, term->W.stride);
            }
            if (term->inner <= longest_chain) continue;
#pragma GCC unroll 14
            for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
                for (std::size_t v = 0; v < vectors; ++v) sum[r][v] += load(at<Real>(all.to, row + r, panel + v));
        }
#pragma GCC unroll 14
        for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
            for (std::size_t v = 0; v < vectors; ++v) store(at<Real>(all.to, row + r, panel + v), sum[r][v]);
    }
};

// (B9, B10) sum += leftᵀ right, left in row-major pieces, right in panels.
template <class Real>
struct TransposedTimes {
    std::size_t left_columns, first_row;
    const Piece<Real>* pieces;
    std::size_t count;
    Panels<const Real> right;
    Panels<Real> sum;
    bool first_block;

    template <std::size_t rows, std::size_t vectors>
    static void tile(const TransposedTimes& all, std::size_t row, std::size_t panel) {
        row += all.first_row;
        Vector<Real> block[rows][vectors] = {};
        const Real* right = at<Real>(all.right, 0, panel);
        for (const Piece<Real>* piece = all.pieces; piece != all.pieces + all.count; ++piece) {
            if (piece->at) update<1>(block, piece->rows, piece->at + row, all.left_columns, right, all.right.stride);
            right += piece->rows * lanes<Real>;
        }
#pragma GCC unroll 14
        for (std::size_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
            for (std::size_t v = 0; v < vectors; ++v) {
                Real* sum = at<Real>(all.sum, row + r, panel + v);
                store(sum, all.first_block ? block[r][v] : load(sum) + block[r][v]);
            }
    }
};

template <class Factors>
using Tile = void (*)(const Factors&, std::size_t row, std::size_t panel);

template <class Factors, std::size_t rows, std::size_t vectors>
constexpr Tile<Factors> tile_within_registers() {
    if constexpr (rows <= tallest_tile && vectors <= widest_tile(rows))
        return Factors::template tile<rows, vectors>;
    else
        return nullptr;
}

template <class Factors, std::size_t rows>
constexpr Tile<Factors> tiles_of_height[] = {
    tile_within_registers<Factors, rows, 1>(), tile_within_registers<Factors, rows, 2>(),
    tile_within_registers<Factors, rows, 3>(), tile_within_registers<Factors, rows, 4>(),
    tile_within_registers<Factors, rows, 5>(), tile_within_registers<Factors, rows, 6>(),
    tile_within_registers<Factors, rows, 7>(), tile_within_registers<Factors, rows, 8>(),
};

template <class Factors>
constexpr const Tile<Factors>* tiles[] = {
    tiles_of_height<Factors, 1>,  tiles_of_height<Factors, 2>,  tiles_of_height<Factors, 3>,
    tiles_of_height<Factors, 4>,  tiles_of_height<Factors, 5>,  tiles_of_height<Factors, 6>,
    tiles_of_height<Factors, 7>,  tiles_of_height<Factors, 8>,  tiles_of_height<Factors, 9>,
    tiles_of_height<Factors, 10>, tiles_of_height<Factors, 11>, tiles_of_height<Factors, 12>,
    tiles_of_height<Factors, 13>, tiles_of_height<Factors, 14>,
};

// The part of a panel matrix that one tile covers.
struct Patch {
    std::size_t first_row, rows, first_panel, panels;
};

// Covers rows x [first, last) panels of the result with tiles of near equal shape and finishes each while it is hot.
// Columns outside, so that weights beyond the first-level cache are fetched once for all rows.
template <class Factors, class Finish>
void multiply(std::size_t rows, std::size_t first, std::size_t last, const Factors& factors, const Finish& finish) {
    const std::size_t bands = divide_up(rows, tallest_tile);
    if (bands == 0) return;
    const std::size_t columns = last - first, groups = divide_up(columns, widest_tile(divide_up(rows, bands)));
    for (std::size_t group = 0; group < groups; ++group) {
        const std::size_t panel = first + columns * group / groups;
        const std::size_t panels = first + columns * (group + 1) / groups - panel;
        for (std::size_t band = 0; band < bands; ++band) {
            const std::size_t row = rows * band / bands;
            const Patch patch{row, rows * (band + 1) / bands - row, panel, panels};
            tiles<Factors>[patch.rows - 1][panels - 1](factors, row, panel);
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

template <class Real>
void product(const Product<Real>& p) {
    const TimesWeights<Real> sum{p.start, p.terms, p.count, p.panels};
    multiply(p.rows, p.first, p.last, sum, [&](const Patch& patch) {
        if (!p.to) return;
        each_vector<Real>(patch, p.columns, p.panels.stride,
                          [&](std::size_t panel, std::size_t row, std::size_t count) {
                              store(p.to + row, load(p.panels.at + panel), count);
                          });
    });
}

template <class Real>
void gather(const Gather<Real>& g) {
    for (std::size_t c = g.first; c < g.last; ++c)
        for (std::size_t r = 0; r < g.rows; ++r) {
            const Vector<Real> row = load(at<Real>(g.W, static_cast<std::size_t>(g.tokens[r]), c));
            const Real* const start = g.start.at.at;
            store(at<Real>(g.to, r, c), start ? load(start + c * g.start.at.stride + r * g.start.row_step) + row : row);
        }
}

template <class Real>
void weight_gradient(const WeightGradient<Real>& g) {
    const TransposedTimes<Real> factors{g.left_columns, g.first_row, g.left, g.pieces, g.right, g.sum, g.first_block};
    multiply(g.last_row - g.first_row, g.first, g.last, factors, [](const Patch&) {});
}

// (B9) for one-hot x_t
template <class Real>
void token_gradient(const TokenGradient<Real>& g) {
    for (std::size_t c = g.first; c < g.last; ++c)
        for (std::size_t r = 0; r < g.rows; ++r) {
            Real* sum = at<Real>(g.sum, static_cast<std::size_t>(g.tokens[r]), c);
            store(sum, load(sum) + load(at<Real>(g.right, r, c)));
        }
}

// (B8)
template <class Real>
void bias_gradient(std::size_t rows, std::size_t first, std::size_t last, Panels<const Real> right, Panels<Real> sum) {
    for (std::size_t c = first; c < last; ++c) {
        Vector<Real> chains[4] = {};  // one alone would wait for each addition
        for (std::size_t r = 0; r < rows; ++r) chains[r % 4] += load(at<Real>(right, r, c));
        const Vector<Real> block = (chains[0] + chains[1]) + (chains[2] + chains[3]);
        store(at<Real>(sum, 0, c), load(at<Real>(sum, 0, c)) + block);
    }
}

template <class Real>
Real* element(const Matrix<Real>& matrix, std::size_t row, std::size_t column) {
    return matrix.at + static_cast<std::ptrdiff_t>(row) * matrix.row_stride +
           static_cast<std::ptrdiff_t>(column) * matrix.column_stride;
}

// Registers go in and out along whichever side of the matrix is contiguous; other strides, element by element.
template <class Real>
void pack(Matrix<const Real> matrix, std::size_t rows, std::size_t columns, std::size_t first, std::size_t last,
          Panels<Real> panels) {
    constexpr std::size_t L = lanes<Real>;
    for (std::size_t c = first; c < last; ++c) {
        const std::size_t count = smaller(L, columns - c * L);
        Real* to = at<Real>(panels, 0, c);
        if (matrix.column_stride == 1) {
            for (std::size_t r = 0; r < rows; ++r) store(to + r * L, load(element(matrix, r, c * L), count));
            continue;
        }
        if (matrix.row_stride == 1) {
            for (std::size_t begin = 0; begin < rows; begin += L) {
                const std::size_t run = smaller(L, rows - begin);
                Vector<Real> square[L] = {};
                for (std::size_t lane = 0; lane < count; ++lane)
                    square[lane] = load(element(matrix, begin, c * L + lane), run);
                transpose<Real>(square);
                for (std::size_t r = 0; r < run; ++r) store(to + (begin + r) * L, square[r]);
            }
            continue;
        }
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t lane = 0; lane < L; ++lane)
                to[r * L + lane] = lane < count ? *element(matrix, r, c * L + lane) : Real(0);
    }
}

template <class Real>
void unpack(Panels<const Real> panels, std::size_t rows, std::size_t columns, std::size_t first, std::size_t last,
            Matrix<Real> matrix) {
    constexpr std::size_t L = lanes<Real>;
    if (matrix.column_stride == 1) {  // row by row, so that memory is written from line to line
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t c = first; c < last; ++c)
                store(element(matrix, r, c * L), load(at<Real>(panels, r, c)), smaller(L, columns - c * L));
        return;
    }
    for (std::size_t c = first; c < last; ++c) {
        const std::size_t count = smaller(L, columns - c * L);
        const Real* from = at<Real>(panels, 0, c);
        if (matrix.row_stride == 1) {
            for (std::size_t begin = 0; begin < rows; begin += L) {
                const std::size_t run = smaller(L, rows - begin);
                Vector<Real> square[L] = {};
                for (std::size_t r = 0; r < run; ++r) square[r] = load(from + (begin + r) * L);
                transpose<Real>(square);
                for (std::size_t lane = 0; lane < count; ++lane)
                    store(element(matrix, begin, c * L + lane), square[lane], run);
            }
            continue;
        }
        for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t lane = 0; lane < count; ++lane) *element(matrix, r, c * L + lane) = from[r * L + lane];
    }
}

template <class Real>
constexpr Kernels<Real> table{
    .lanes = lanes<Real>,
    .product = product<Real>,
    .entries = entries<Real>,
    .gather = gather<Real>,
    .weight_gradient = weight_gradient<Real>,
    .token_gradient = token_gradient<Real>,
    .bias_gradient = bias_gradient<Real>,
    .pack = pack<Real>,
    .unpack = unpack<Real>,
};

}  // namespace

extern const Kernels<float> BPTT_KERNELS(float);
extern const Kernels<double> BPTT_KERNELS(double);
constexpr Kernels<float> BPTT_KERNELS(float) = table<float>;
constexpr Kernels<double> BPTT_KERNELS(double) = table<double>;

}  // namespace bptt
