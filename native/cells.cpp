// Both sweeps of cells with options. Each member of the team takes some rows through all steps; the product of a step
// is the kernels', the rest plain loops over its rows.
#include "cells.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "buffer.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"

namespace bptt {

namespace {

// What each member has for itself: the rows of one step, row-major and in panels.
template <class Real>
struct Room {
    Room(std::size_t rows, std::size_t H) : kept(rows * H), made(rows * H), left(rows, H), product(rows, H) {}

    std::vector<Real> kept;  // [rows, H]  handed from step to step
    std::vector<Real> made;  // [rows, H]
    PanelBuffer<Real> left, product;
};

// What both sweeps are about: rows, shares, and one product with the recurrent weights.
template <class Real>
class Cells {
public:
    Cells(const Steps& steps, std::size_t H, Matrix<const Real> W, std::size_t threads)
        : steps_(steps), H_(H), W_given_(W), rows_(steps), panels_(panels_of<Real>(H)), W_(H, H) {
        shares_ = std::max<std::size_t>(1, std::min(threads, steps.B));
        for (std::size_t share = 0; share < shares_; ++share) {
            const Range own = part(steps.B, share, shares_);
            rooms_.emplace_back(own.last - own.first, H);
        }
    }

protected:
    void pack_weights(std::size_t share, std::size_t members) const {
        const Range own = part(panels_, share, members);
        kernel_.pack(W_given_, H_, H_, own.first, own.last, W_.from_row(0));
    }

    // to = start + left W; null starts from zero.
    void multiply(Room<Real>& room, std::size_t rows, const Real* start, const Real* left, Real* to) const {
        const auto H = static_cast<std::ptrdiff_t>(H_);
        const Panels<Real> product = room.product.from_row(0);
        kernel_.pack({left, H, 1}, rows, H_, 0, panels_, room.left.from_row(0));
        Start<Real> begin{};
        if (start) {
            kernel_.pack({start, H, 1}, rows, H_, 0, panels_, product);
            begin = {{product.at, product.stride}, kernel_.lanes};
        }
        kernel_.product({rows, H_, 0, panels_, begin, {H_, room.left.read(), W_.read()}, product, to});
    }

    // The rows of a share that step t has.
    std::size_t active(Range own, std::size_t t) const {
        return std::clamp(rows_.of(t), own.first, own.last) - own.first;
    }
    std::size_t element(Range own, std::size_t t) const { return (rows_.before(t) + own.first) * H_; }

    const Kernels<Real>& kernel_ = kernels<Real>();
    Steps steps_;
    std::size_t H_;
    Matrix<const Real> W_given_;
    Rows rows_;
    std::size_t panels_, shares_;
    PanelBuffer<Real> W_;
    mutable std::vector<Room<Real>> rooms_;
};

// A sum in sixteen chains, which the compiler keeps in registers.
template <class Real, class Value>
Real sum(std::size_t count, const Value& value) {
    Real chains[16] = {};
    std::size_t j = 0;
    for (; j + 16 <= count; j += 16)
        for (std::size_t lane = 0; lane < 16; ++lane) chains[lane] += value(j + lane);
    for (; j < count; ++j) chains[j % 16] += value(j);
    for (std::size_t half = 8; half != 0; half /= 2)
        for (std::size_t lane = 0; lane < half; ++lane) chains[lane] += chains[lane + half];
    return chains[0];
}

template <class Real>
class Forward : Cells<Real> {
public:
    Forward(const ForwardCells<Real>& sweep, std::size_t threads)
        : Cells<Real>(sweep.steps, sweep.H, sweep.W_hh, threads), sweep_(sweep) {}

    void operator()(Member& member) const {
        member.phase(member.members(), [&](std::size_t share) { this->pack_weights(share, member.members()); });
        member.phase(this->shares_, [&](std::size_t share) { walk(share); });
    }

private:
    void walk(std::size_t share) const {
        const Range own = part(this->steps_.B, share, this->shares_);
        Room<Real>& room = this->rooms_[share];
        std::copy_n(sweep_.h0 + own.first * this->H_, room.kept.size(), room.kept.begin());
        for (std::size_t s = 0; s < this->steps_.T; ++s) {
            const std::size_t t = this->steps_.reverse ? this->steps_.T - 1 - s : s;
            if (const std::size_t rows = this->active(own, t)) step(room, own, t, rows);
        }
    }

    void step(Room<Real>& room, Range own, std::size_t t, std::size_t rows) const {
        const std::size_t H = this->H_, at = this->element(own, t), count = rows * H;
        const Cell<Real>& cell = sweep_.cell;
        Real *const h = room.kept.data(), *const z = room.made.data();
        const Real* left = h;
        if (cell.mask) {
            const Real* mask = cell.mask + own.first * H;
            for (std::size_t i = 0; i < count; ++i) z[i] = mask[i] * h[i];
            left = z;
        }
        this->multiply(room, rows, sweep_.a + at, left, z);
        if (cell.norm_weight)
            for (std::size_t r = 0; r < rows; ++r) normalise(z + r * H, at / H + r);
        if (cell.residual)
            for (std::size_t i = 0; i < count; ++i) z[i] += h[i];
        Real* const f = sweep_.f + at;
        this->kernel_.activate(cell.activation, z, f, count);
        if (cell.leak == 1)
            std::copy_n(f, count, h);
        else
            for (std::size_t i = 0; i < count; ++i) h[i] = (1 - cell.leak) * h[i] + cell.leak * f[i];
        std::copy_n(h, count, sweep_.h + at);
    }

    void normalise(Real* a, std::size_t row) const {
        const std::size_t H = this->H_;
        const Cell<Real>& cell = sweep_.cell;
        const Real mean = sum<Real>(H, [&](std::size_t j) { return a[j]; }) / static_cast<Real>(H);
        const Real variance =
            sum<Real>(H, [&](std::size_t j) { return (a[j] - mean) * (a[j] - mean); }) / static_cast<Real>(H);
        const Real scale = 1 / std::sqrt(variance + cell.epsilon);
        sweep_.scale[row] = scale;
        Real* n = sweep_.normalised + row * H;
        for (std::size_t j = 0; j < H; ++j) {
            n[j] = (a[j] - mean) * scale;
            a[j] = cell.norm_weight[j] * n[j] + (cell.norm_bias ? cell.norm_bias[j] : Real(0));
        }
    }

    const ForwardCells<Real>& sweep_;
};

// φ' as a function of f = φ(z); relu chooses, as in activation.hpp.
template <class Real>
void through_phi(Activation activation, const Real* f, Real* dz, std::size_t count) {
    switch (activation) {
        case Activation::tanh:
            for (std::size_t i = 0; i < count; ++i) dz[i] *= 1 - f[i] * f[i];
            return;
        case Activation::relu:
            for (std::size_t i = 0; i < count; ++i) dz[i] = f[i] <= 0 ? Real(0) : dz[i];
            return;
        case Activation::sigmoid:
            for (std::size_t i = 0; i < count; ++i) dz[i] *= f[i] * (1 - f[i]);
            return;
        case Activation::identity: return;
    }
}

template <class Real>
class Backward : Cells<Real> {
public:
    Backward(const BackwardCells<Real>& sweep, std::size_t threads)
        : Cells<Real>(sweep.steps, sweep.H, {sweep.W_hh.at, sweep.W_hh.column_stride, sweep.W_hh.row_stride}, threads),
          sweep_(sweep) {}

    void operator()(Member& member) const {
        member.phase(member.members(), [&](std::size_t share) { this->pack_weights(share, member.members()); });
        member.phase(this->shares_, [&](std::size_t share) { walk(share); });
    }

private:
    void walk(std::size_t share) const {
        const Range own = part(this->steps_.B, share, this->shares_);
        Room<Real>& room = this->rooms_[share];
        std::fill(room.kept.begin(), room.kept.end(), Real(0));
        for (std::size_t s = 0; s < this->steps_.T; ++s) {
            const std::size_t t = this->steps_.reverse ? s : this->steps_.T - 1 - s;
            if (const std::size_t rows = this->active(own, t)) step(room, own, t, rows);
        }
        std::copy(room.kept.begin(), room.kept.end(), sweep_.dh0 + own.first * this->H_);
    }

    // kept: the future's part of ∂h_t before, the part of ∂h_{t-1} that this step makes after.
    void step(Room<Real>& room, Range own, std::size_t t, std::size_t rows) const {
        const std::size_t H = this->H_, at = this->element(own, t), count = rows * H;
        const Cell<Real>& cell = sweep_.cell;
        Real *const kept = room.kept.data(), *const dz = sweep_.dz + at, *const da = sweep_.da + at;
        for (std::size_t i = 0; i < count; ++i) {
            const Real dh = sweep_.dh[at + i] + kept[i];
            dz[i] = cell.leak * dh;
            kept[i] = (1 - cell.leak) * dh;
        }
        through_phi(cell.activation, sweep_.f + at, dz, count);
        if (cell.residual)
            for (std::size_t i = 0; i < count; ++i) kept[i] += dz[i];
        if (cell.norm_weight)
            for (std::size_t r = 0; r < rows; ++r) through_norm(dz + r * H, da + r * H, at / H + r);
        Real* const future = room.made.data();
        this->multiply(room, rows, nullptr, da, future);
        if (const Real* mask = cell.mask) {
            mask += own.first * H;
            for (std::size_t i = 0; i < count; ++i) kept[i] += mask[i] * future[i];
        } else
            for (std::size_t i = 0; i < count; ++i) kept[i] += future[i];
    }

    // ∂a = scale (∂n - mean(∂n) - n mean(∂n ⊙ n)) with ∂n = γ ⊙ ∂z
    void through_norm(const Real* dz, Real* da, std::size_t row) const {
        const std::size_t H = this->H_;
        const Real *n = sweep_.normalised + row * H, *gamma = sweep_.cell.norm_weight;
        const Real mean = sum<Real>(H, [&](std::size_t j) { return gamma[j] * dz[j]; }) / static_cast<Real>(H);
        const Real along = sum<Real>(H, [&](std::size_t j) { return gamma[j] * dz[j] * n[j]; }) / static_cast<Real>(H);
        for (std::size_t j = 0; j < H; ++j) da[j] = sweep_.scale[row] * (gamma[j] * dz[j] - mean - n[j] * along);
    }

    const BackwardCells<Real>& sweep_;
};

template <class Walk, class Sweep>
void run(const Sweep& sweep, std::size_t threads) {
    const double operations = 2.0 * static_cast<double>(Rows(sweep.steps).all() * sweep.H * sweep.H);
    threads = team_for(operations, threads);
    run_team(threads, Walk(sweep, threads));
}

}  // namespace

template <class Real>
void forward_cells(const ForwardCells<Real>& sweep, std::size_t threads) {
    run<Forward<Real>>(sweep, threads);
}

template <class Real>
void backward_cells(const BackwardCells<Real>& sweep, std::size_t threads) {
    run<Backward<Real>>(sweep, threads);
}

template void forward_cells(const ForwardCells<float>&, std::size_t);
template void forward_cells(const ForwardCells<double>&, std::size_t);
template void backward_cells(const BackwardCells<float>&, std::size_t);
template void backward_cells(const BackwardCells<double>&, std::size_t);

}  // namespace bptt
