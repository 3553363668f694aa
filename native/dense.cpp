#include "dense.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "buffer.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"

namespace bptt {

namespace {

// So many rows are summed before the sum is added to those before, which keeps the error of a long sequence that of a
// short one; and so many numbers of the results are gone through with all rows, few enough for the second-level cache.
constexpr std::size_t rows_summed_first = 256, numbers_in_the_cache = 1 << 17;

template <class Real>
class Multiply {
public:
    Multiply(const DenseProduct<Real>& all, std::size_t threads)
        : all_(all), shares_(threads), start_(all.start ? 1 : 0, all.columns) {
        for (const DenseTerm<Real>& term : all.terms) right_.emplace_back(term.inner, all.columns);
        if (all.start) kernel_.pack({all.start, 0, 1}, 1, all.columns, 0, panels_, start_.from_row(0));
        const std::size_t rows = std::min(rows_of_a_band, all.rows);
        for (std::size_t share = 0; share < threads; ++share) {
            Room room{{}, {}, PanelBuffer<Real>(rows, all.columns)};
            for (std::size_t k = 0; k < right_.size(); ++k) {
                room.left.emplace_back(rows, all.terms[k].inner);
                room.terms.push_back({all.terms[k].inner, room.left.back().read(), right_[k].read()});
            }
            rooms_.push_back(std::move(room));
        }
    }

    void operator()(Member& member) const {
        member.phase(right_.size() * shares_, [&](std::size_t item) {
            const std::size_t k = item / shares_;
            const Range own = part(panels_, item % shares_, shares_);
            kernel_.pack(all_.terms[k].right, all_.terms[k].inner, all_.columns, own.first, own.last,
                         right_[k].from_row(0));
        });
        member.phase(shares_, [&](std::size_t share) {
            const Range own = part(all_.rows, share, shares_);
            const std::size_t bands = divide_up(own.last - own.first, rows_of_a_band);
            for (std::size_t band = 0; band < bands; ++band) {
                const Range some = part(own.last - own.first, band, bands);
                multiply({own.first + some.first, own.first + some.last}, rooms_[share]);
            }
        });
    }

private:
    // What a share needs for some rows.
    struct Room {
        std::vector<PanelBuffer<Real>> left;
        std::vector<Term<Real>> terms;
        PanelBuffer<Real> made;
    };

    void multiply(Range rows, const Room& room) const {
        const std::size_t count = rows.last - rows.first;
        for (std::size_t k = 0; k < right_.size(); ++k)
            kernel_.pack(from_row(all_.terms[k].left, rows.first), count, all_.terms[k].inner, 0,
                         panels_of<Real>(all_.terms[k].inner), room.left[k].from_row(0));
        Start<Real> start{};
        if (all_.start) start = {start_.read(), 0};
        kernel_.product({count, all_.columns, 0, panels_, start, room.terms.data(), room.terms.size(),
                         room.made.from_row(0), nullptr});
        kernel_.unpack(room.made.read(), count, all_.columns, 0, panels_, from_row(all_.to, rows.first));
    }

    template <class R>
    static Matrix<R> from_row(Matrix<R> matrix, std::size_t row) {
        matrix.at += static_cast<std::ptrdiff_t>(row) * matrix.row_stride;
        return matrix;
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const DenseProduct<Real>& all_;
    std::size_t shares_;
    std::size_t panels_ = panels_of<Real>(all_.columns);
    PanelBuffer<Real> start_;
    std::vector<PanelBuffer<Real>> right_;
    std::vector<Room> rooms_;
};

// Some columns of the results after the other go through all rows, block by block.
template <class Real>
class SumUp {
public:
    SumUp(const DenseSum<Real>& all, std::size_t threads) : all_(all), total_(all.total ? 1 : 0, all.columns) {
        std::size_t rows = 1;
        for (const DenseLeft<Real>& left : all.lefts) {
            products_.emplace_back(left.columns, all.columns);
            rows += left.columns;
        }
        wide_ = std::max<std::size_t>(2, numbers_in_the_cache / (rows * kernel_.lanes));
        for (std::size_t share = 0; share < threads; ++share)
            blocks_.emplace_back(std::min(rows_summed_first, all.rows), std::min(wide_, panels_) * kernel_.lanes);
    }

    void operator()(Member& member) const {
        member.phase(blocks_.size(), [&](std::size_t share) {
            const Range own = part(panels_, share, blocks_.size());
            for (std::size_t first = own.first; first < own.last; first += wide_)
                sum({first, std::min(first + wide_, own.last)}, blocks_[share].from_row(0));
        });
    }

private:
    void sum(Range panels, Panels<Real> room) const {
        for (std::size_t k = 0; k < products_.size(); ++k)
            if (all_.lefts[k].tokens || all_.rows == 0) products_[k].clear(panels.first, panels.last);
        if (all_.total) total_.clear(panels.first, panels.last);
        for (std::size_t row = 0; row < all_.rows; row += rows_summed_first) add(panels, row, room);
        for (std::size_t k = 0; k < products_.size(); ++k)
            kernel_.unpack(products_[k].read(), all_.lefts[k].columns, all_.columns, panels.first, panels.last,
                           all_.lefts[k].product);
        if (all_.total) kernel_.unpack(total_.read(), 1, all_.columns, panels.first, panels.last, {all_.total, 0, 1});
    }

    // A block of rows, whose part of the right factor goes through `room`.
    void add(Range panels, std::size_t row, Panels<Real> room) const {
        const std::size_t rows = std::min(rows_summed_first, all_.rows - row);
        room.at -= panels.first * room.stride;  // where the first of all panels would be
        const Panels<const Real> right{room.at, room.stride};
        Matrix<const Real> of_block = all_.right;
        of_block.at += static_cast<std::ptrdiff_t>(row) * of_block.row_stride;
        kernel_.pack(of_block, rows, all_.columns, panels.first, panels.last, room);
        if (all_.total) kernel_.bias_gradient(rows, panels.first, panels.last, right, total_.from_row(0));
        for (std::size_t k = 0; k < products_.size(); ++k) {
            const DenseLeft<Real>& left = all_.lefts[k];
            const Panels<Real> product = products_[k].from_row(0);
            const Piece<Real> piece{left.left ? left.left + row * left.columns : nullptr, rows};
            if (left.tokens)
                kernel_.token_gradient({rows, panels.first, panels.last, left.tokens + row, right, product});
            else
                kernel_.weight_gradient(
                    {left.columns, 0, left.columns, panels.first, panels.last, &piece, 1, right, product, row == 0});
        }
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const DenseSum<Real>& all_;
    std::size_t panels_ = panels_of<Real>(all_.columns);
    std::size_t wide_;  // so many panels go through all rows together
    PanelBuffer<Real> total_;
    std::vector<PanelBuffer<Real>> products_;
    std::vector<PanelBuffer<Real>> blocks_;  // of each share
};

}  // namespace

template <class Real>
void multiply(const DenseProduct<Real>& all, std::size_t threads) {
    if (all.rows == 0 || all.columns == 0) return;
    std::size_t inner = 1;
    for (const DenseTerm<Real>& term : all.terms) inner += term.inner;
    threads = team_for(2.0 * static_cast<double>(all.rows) * static_cast<double>(inner * all.columns), threads);
    run_team(threads, Multiply<Real>(all, threads));
}

template <class Real>
void sum_up(const DenseSum<Real>& all, std::size_t threads) {
    if (all.columns == 0) return;
    std::size_t inner = 1;
    for (const DenseLeft<Real>& left : all.lefts) {
        inner += left.tokens ? 1 : left.columns;
        if (!left.tokens || all.rows == 0) continue;
        const auto [least, most] = std::minmax_element(left.tokens, left.tokens + all.rows);
        if (*least < 0 || static_cast<std::size_t>(*most) >= left.columns)
            throw std::out_of_range("a token lies outside the rows of its matrix");
    }
    threads = team_for(2.0 * static_cast<double>(all.rows) * static_cast<double>(inner * all.columns), threads);
    run_team(threads, SumUp<Real>(all, threads));
}

template void multiply(const DenseProduct<float>&, std::size_t);
template void multiply(const DenseProduct<double>&, std::size_t);
template void sum_up(const DenseSum<float>&, std::size_t);
template void sum_up(const DenseSum<double>&, std::size_t);

}  // namespace bptt
