// The sweep of a program: which rows a member takes, and what is run on them in which order.
#include "program.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "buffer.hpp"
#include "kernels.hpp"
#include "schedule.hpp"
#include "team.hpp"

namespace bptt {

namespace {

// Of a slot so many numbers are made before the next operation begins, so that they are still in the first-level cache.
constexpr std::size_t numbers_of_a_chunk = 1024;

// Instructions that are run chunk by chunk of columns, all as wide; their products read no slot that they make.
struct Segment {
    std::size_t first, last;
    int size;
};

int size_of_result(const Program& program, const Instruction& instruction) {
    return instruction.operation == Operation::store ? program.slots[instruction.from[0]].size
                                                     : program.slots[instruction.to].size;
}

std::vector<Segment> segments_of(const Program& program) {
    std::vector<Segment> segments;
    std::vector<bool> made(program.slots.size());  // in the last segment
    bool is_open = false;
    for (std::size_t k = 0; k < program.instructions.size(); ++k) {
        const Instruction& instruction = program.instructions[k];
        const int size = size_of_result(program, instruction);
        const bool alone = is_of_rows(instruction.operation);
        bool waits = false;
        if (is_product(instruction.operation))
            for (const Factors& factors : program.products[instruction.from[0]]) waits |= made[factors.left];
        if (!is_open || alone || waits || segments.back().size != size) {
            segments.push_back({k, k, size});
            made.assign(made.size(), false);
        }
        segments.back().last = k + 1;
        is_open = !alone;
        if (instruction.operation == Operation::store) continue;
        for (int slot = instruction.to,
                 count = is_product(instruction.operation) ? program.groups[program.slots[instruction.to].group] : 1;
             count-- > 0; ++slot)
            made[slot] = true;
    }
    return segments;
}

// An instruction with the places of what it reads and writes, which a share's rows have at all steps.
template <class Real>
struct Ready {
    Entries<Real> entries;
    Product<Real> product;
    std::vector<Term<Real>> terms;
};

template <class Real>
class Walk {
public:
    Walk(const Sweep<Real>& sweep, std::size_t threads)
        : sweep_(sweep),
          program_(sweep.program),
          rows_(sweep.steps),
          segments_(segments_of(program_)),
          shares_(std::max<std::size_t>(1, std::min(threads, sweep.steps.B))),
          panel_(std::min(rows_of_a_band, divide_up(sweep.steps.B, shares_)) * kernel_.lanes) {
        for (const Weight& weight : program_.weights)
            weights_.emplace_back(length(weight.rows), panels(weight.columns) * weight.matrices.size() * kernel_.lanes);
        for (std::size_t k = 0; k < program_.vectors.size(); ++k) {
            vectors_.emplace_back(1, length(program_.vectors[k]));
            pack_rows(program_.vectors[k], {sweep.vectors[k], 0, 1}, 1, 0, panels(program_.vectors[k]),
                      {vectors_.back().from_row(0).at, vectors_.back().from_row(0).stride, kernel_.lanes});
        }
        std::size_t numbers = 0;
        for (const Slot& slot : program_.slots) {
            begins_.push_back(slot.place == 0 ? numbers : begins_.back());
            if (slot.place == 0)
                numbers += static_cast<std::size_t>(program_.groups[slot.group]) * panels(slot.size) * panel_;
        }
        for (std::size_t share = 0; share < shares_; ++share) {
            rooms_.emplace_back(1, numbers);
            Real* const room = rooms_.back().from_row(0).at;
            std::vector<Ready<Real>> all;
            for (const Instruction& instruction : program_.instructions) all.push_back(ready(instruction, room));
            ready_.push_back(std::move(all));
            std::vector<Entries<Real>> hand_on;
            for (const Carried& carried : program_.carried)
                if (carried.next >= 0) {
                    hand_on.push_back(ready({Operation::copy, carried.slot, {carried.next}}, room).entries);
                    hand_on.back().last = panels(program_.slots[carried.slot].size);
                }
            hand_on_.push_back(std::move(hand_on));
        }
    }

    void operator()(Member& member) const {
        member.phase(program_.weights.size(), [&](std::size_t k) { pack_weight(k); });
        member.phase(shares_, [&](std::size_t share) {
            const Range own = part(sweep_.steps.B, share, shares_);
            const std::size_t count = divide_up(own.last - own.first, rows_of_a_band);
            for (std::size_t band = 0; band < count; ++band) {
                const Range some = part(own.last - own.first, band, count);
                walk({own.first + some.first, own.first + some.last}, share);
            }
        });
    }

private:
    std::size_t length(int size) const { return sweep_.sizes[size]; }
    std::size_t panels(int size) const { return panels_of<Real>(length(size)); }

    void pack_weight(std::size_t k) const {
        const Weight& weight = program_.weights[k];
        const Panels<Real> to = weights_[k].from_row(0);
        const std::size_t count = weight.matrices.size();
        for (std::size_t g = 0; g < count; ++g)
            kernel_.pack(sweep_.matrices[weight.matrices[g]], length(weight.rows), length(weight.columns), 0,
                         panels(weight.columns), {to.at + g * to.stride, count * to.stride});
    }

    Ready<Real> ready(const Instruction& i, Real* room) const {
        Ready<Real> made{};
        if (is_product(i.operation)) {
            for (const Factors& factors : program_.products[i.from[0]]) {
                const Place<Real> left = place(factors.left, room);
                made.terms.push_back({length(program_.weights[factors.weight].rows),
                                      {left.at, left.panel_step},
                                      weights_[factors.weight].read()});
            }
            const Panels<Real> to{room + begins_[i.to], panel_};
            made.product.panels = to;
            if (i.operation == Operation::add_product) made.product.start = {{to.at, to.stride}, kernel_.lanes};
            made.product.count = made.terms.size();
        } else if (i.operation == Operation::store) {
            made.entries.to = place(i.from[0], room);
        } else {
            made.entries.operation = i.operation;
            made.entries.to = place(i.to, room);
            if (is_of_entries(i.operation) || is_of_rows(i.operation))
                for (int k = 0; k < arity(i.operation); ++k) made.entries.from[k] = read(i.from[k], room);
            if (is_of_rows(i.operation))
                made.entries.columns =
                    length(i.from[0] < 0 ? program_.vectors[-1 - i.from[0]] : program_.slots[i.from[0]].size);
        }
        return made;
    }

    // All steps of some rows of the batch.
    void walk(Range band, std::size_t share) const {
        Real* const room = rooms_[share].from_row(0).at;
        const std::size_t count = band.last - band.first;
        for (const Carried& carried : program_.carried)
            pack_rows(program_.slots[carried.slot].size, of_band(carried.first, band), count, 0,
                      panels(program_.slots[carried.slot].size), place(carried.slot, room));
        for (std::size_t s = 0; s < sweep_.steps.T; ++s) {
            const std::size_t t = sweep_.steps.reverse != sweep_.back ? sweep_.steps.T - 1 - s : s;
            const std::size_t rows = std::clamp(rows_.of(t), band.first, band.last) - band.first;
            if (rows == 0) continue;
            for (const Segment& segment : segments_) run(segment, ready_[share], t, band, rows);
            for (Entries<Real>& entries : hand_on_[share]) {
                entries.rows = rows;
                kernel_.entries(entries);
            }
        }
        for (const Carried& carried : program_.carried)
            unpack_rows(program_.slots[carried.slot].size, place(carried.slot, room), count, 0,
                        panels(program_.slots[carried.slot].size), of_band(carried.last, band));
    }

    void run(const Segment& segment, std::vector<Ready<Real>>& all, std::size_t t, Range band, std::size_t rows) const {
        const std::size_t wide = panels(segment.size);
        const std::size_t some = std::max<std::size_t>(1, numbers_of_a_chunk / (rows * kernel_.lanes));
        for (std::size_t first = 0; first < wide; first += some) {
            const Range chunk{first, std::min(first + some, wide)};
            for (std::size_t k = segment.first; k < segment.last; ++k)
                run(program_.instructions[k], all[k], t, band, rows, chunk);
        }
    }

    void run(const Instruction& i, Ready<Real>& made, std::size_t t, Range band, std::size_t rows, Range chunk) const {
        switch (i.operation) {
            case Operation::load:
                return pack_rows(program_.slots[i.to].size, of_step(i.from[0], t, band), rows, chunk.first, chunk.last,
                                 made.entries.to);
            case Operation::previous: return previous(i, t, band, rows, chunk, made.entries.to);
            case Operation::store:
                return unpack_rows(program_.slots[i.from[0]].size, made.entries.to, rows, chunk.first, chunk.last,
                                   of_step(i.to, t, band));
            case Operation::product:
            case Operation::add_product: return multiply(i, made, rows, chunk);
            default:
                made.entries.rows = rows;
                made.entries.first = is_of_rows(i.operation) ? 0 : chunk.first;
                made.entries.last =
                    is_of_rows(i.operation) ? divide_up(made.entries.columns, kernel_.lanes) : chunk.last;
                kernel_.entries(made.entries);
        }
    }

    void previous(const Instruction& i, std::size_t t, Range band, std::size_t rows, Range chunk,
                  Place<Real> to) const {
        const std::size_t T = sweep_.steps.T;
        const bool reverse = sweep_.steps.reverse, is_first = reverse ? t + 1 == T : t == 0;
        const std::size_t before = reverse ? t + 1 : t - 1;
        const std::size_t go_on =
            is_first ? 0 : std::min(rows, std::clamp(rows_.of(before), band.first, band.last) - band.first);
        const int size = program_.slots[i.to].size;
        if (go_on != 0) pack_rows(size, of_step(i.from[0], before, band), go_on, chunk.first, chunk.last, to);
        if (go_on == rows) return;
        to.at += go_on * to.row_step;
        Matrix<Real> first = of_band(i.from[1], band);
        if (first.at) first.at += static_cast<std::ptrdiff_t>(go_on) * first.row_stride;
        pack_rows(size, first, rows - go_on, chunk.first, chunk.last, to);
    }

    void multiply(const Instruction& i, Ready<Real>& made, std::size_t rows, Range chunk) const {
        const Slot& slot = program_.slots[i.to];
        const auto together = static_cast<std::size_t>(program_.groups[slot.group]);
        Product<Real>& product = made.product;
        product.rows = rows;
        product.terms = made.terms.data();
        product.first = chunk.first * together;
        product.last = chunk.last * together;
        kernel_.product(product);
        if (slot.size != 0) return;
        for (std::size_t g = 0; g < together; ++g)  // a number for each row goes to all lanes
            for (std::size_t r = 0; r < rows; ++r) {
                Real* one = product.panels.at + g * panel_ + r * kernel_.lanes;
                std::fill_n(one, kernel_.lanes, Real(*one));
            }
    }

    Place<Real> place(int number, Real* room) const {
        const Slot& slot = program_.slots[number];
        Real* at = room + begins_[number] + static_cast<std::size_t>(slot.place) * panel_;
        const auto together = static_cast<std::size_t>(program_.groups[slot.group]);
        return {at, slot.size == 0 ? 0 : together * panel_, kernel_.lanes};
    }

    Place<const Real> read(int number, Real* room) const {
        if (number >= 0) {
            const Place<Real> found = place(number, room);
            return {found.at, found.panel_step, found.row_step};
        }
        const Panels<const Real> vector = vectors_[-1 - number].read();
        return {vector.at, program_.vectors[-1 - number] == 0 ? 0 : vector.stride, 0};
    }

    Matrix<Real> of_step(int array, std::size_t t, Range band) const {
        Matrix<Real> found = sweep_.arrays[array];
        if (found.at) found.at += static_cast<std::ptrdiff_t>(rows_.before(t) + band.first) * found.row_stride;
        return found;
    }

    Matrix<Real> of_band(int rows, Range band) const {
        Real* at = rows < 0 ? nullptr : sweep_.rows[rows];
        const std::size_t width = rows < 0 ? 0 : length(program_.rows[rows]);
        return {at ? at + band.first * width : nullptr, static_cast<std::ptrdiff_t>(width), 1};
    }

    // Rows to panels; null is zero.
    void pack_rows(int size, Matrix<const Real> from, std::size_t rows, std::size_t first, std::size_t last,
                   Place<Real> to) const {
        if (size == 0)
            for (std::size_t r = 0; r < rows; ++r)
                std::fill_n(to.at + r * to.row_step, kernel_.lanes, from.at ? from.at[element(from, r)] : Real(0));
        else if (from.at)
            kernel_.pack(from, rows, length(size), first, last, {to.at, to.panel_step});
        else
            for (std::size_t panel = first; panel < last; ++panel)
                std::fill_n(to.at + panel * to.panel_step, rows * kernel_.lanes, Real(0));
    }

    void pack_rows(int size, Matrix<Real> from, std::size_t rows, std::size_t first, std::size_t last,
                   Place<Real> to) const {
        pack_rows(size, Matrix<const Real>{from.at, from.row_stride, from.column_stride}, rows, first, last, to);
    }

    // Panels to rows; not where they are null.
    void unpack_rows(int size, Place<Real> from, std::size_t rows, std::size_t first, std::size_t last,
                     Matrix<Real> to) const {
        if (!to.at) return;
        if (size == 0)
            for (std::size_t r = 0; r < rows; ++r) to.at[element(to, r)] = from.at[r * from.row_step];
        else
            kernel_.unpack({from.at, from.panel_step}, rows, length(size), first, last, to);
    }

    template <class R>
    static std::ptrdiff_t element(const Matrix<R>& matrix, std::size_t row) {
        return static_cast<std::ptrdiff_t>(row) * matrix.row_stride;
    }

    const Kernels<Real>& kernel_ = kernels<Real>();
    const Sweep<Real>& sweep_;
    const Program& program_;
    Rows rows_;
    std::vector<Segment> segments_;
    std::size_t shares_;
    std::size_t panel_;  // numbers from one panel of a slot to the next
    std::vector<PanelBuffer<Real>> weights_, vectors_;
    std::vector<std::size_t> begins_;                      // of each slot the place of its group
    std::vector<PanelBuffer<Real>> rooms_;                 // of each share all slots
    mutable std::vector<std::vector<Ready<Real>>> ready_;  // of each share
    mutable std::vector<std::vector<Entries<Real>>> hand_on_;
};

void demand(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(std::string("a program ") + rule);
}

template <class Each>
bool is_in(int number, const std::vector<Each>& all) {
    return number >= 0 && static_cast<std::size_t>(number) < all.size();
}

}  // namespace

void Program::check() const {
    const auto is_size = [&](int size) { return size >= 0 && size < sizes; };
    demand(sizes > 0, "has sizes, the first of which is 1");
    for (const std::vector<int>* each : {&vectors, &arrays, &rows})
        for (int size : *each) demand(is_size(size), "names the size of everything");
    for (int count : groups) demand(count > 0, "has slots in every group");
    std::size_t number = 0;
    for (std::size_t group = 0; group < groups.size(); ++group)
        for (int place = 0; place < groups[group]; ++place, ++number) {
            demand(number < slots.size(), "has all slots of its groups");
            const Slot& slot = slots[number];
            demand(slot.group == static_cast<int>(group) && slot.place == place, "has the slots of a group in order");
            demand(is_size(slot.size) && slot.size == slots[number - place].size, "has slots of one size in a group");
        }
    demand(number == slots.size(), "has no slot without a group");
    for (const Weight& weight : weights) {
        demand(is_size(weight.rows) && is_size(weight.columns) && !weight.matrices.empty(), "has weights with sizes");
        for (int matrix : weight.matrices) demand(matrix >= 0 && matrix < matrices, "reads matrices that are given");
    }
    for (const std::vector<Factors>& product : products) {
        demand(!product.empty(), "has a term in every product");
        for (const Factors& factors : product) {
            demand(is_in(factors.left, slots) && is_in(factors.weight, weights), "multiplies slots with weights");
            demand(slots[factors.left].size == weights[factors.weight].rows, "multiplies what fits");
        }
    }
    for (const Carried& c : carried) {
        demand(is_in(c.slot, slots), "carries slots");
        const int size = slots[c.slot].size;
        demand(c.first == -1 || (is_in(c.first, rows) && rows[c.first] == size), "begins with rows that fit");
        demand(c.last == -1 || (is_in(c.last, rows) && rows[c.last] == size), "ends with rows that fit");
        demand(c.next == -1 || (is_in(c.next, slots) && slots[c.next].size == size), "carries on what fits");
    }
    for (const Instruction& i : instructions) {
        demand(static_cast<int>(i.operation) <= static_cast<int>(Operation::where_inside), "knows its operations");
        if (i.operation == Operation::store) {
            demand(is_in(i.to, arrays) && is_in(i.from[0], slots), "stores slots in arrays");
            demand(arrays[i.to] == slots[i.from[0]].size, "stores what fits");
            continue;
        }
        demand(is_in(i.to, slots), "writes to slots");
        const int size = slots[i.to].size;
        if (i.operation == Operation::load || i.operation == Operation::previous) {
            demand(is_in(i.from[0], arrays) && arrays[i.from[0]] == size, "loads what fits");
            if (i.operation == Operation::previous)
                demand(i.from[1] == -1 || (is_in(i.from[1], rows) && rows[i.from[1]] == size), "loads rows that fit");
        } else if (is_product(i.operation)) {
            demand(is_in(i.from[0], products) && slots[i.to].place == 0, "makes groups of products");
            for (const Factors& factors : products[i.from[0]]) {
                const Weight& weight = weights[factors.weight];
                demand(weight.columns == size, "makes products that fit");
                demand(static_cast<int>(weight.matrices.size()) == groups[slots[i.to].group], "makes whole groups");
                demand(slots[factors.left].group != slots[i.to].group, "makes no product from itself");
            }
        } else {
            for (int k = 0; k < arity(i.operation); ++k) {
                const int from = i.from[k];
                demand(from < 0 ? is_in(-1 - from, vectors) : is_in(from, slots), "reads slots and vectors");
                const int own = from < 0 ? vectors[-1 - from] : slots[from].size;
                if (is_of_rows(i.operation))
                    demand(size == 0 && own != 0, "makes one number of a row");
                else
                    demand(own == size || own == 0, "reads what is as wide as the result, or one number");
            }
        }
    }
}

template <class Real>
void run(const Sweep<Real>& sweep, std::size_t threads) {
    double operations = 0;
    for (const Instruction& i : sweep.program.instructions)
        if (is_product(i.operation))
            for (const Factors& factors : sweep.program.products[i.from[0]]) {
                const Weight& weight = sweep.program.weights[factors.weight];
                operations += 2.0 * static_cast<double>(sweep.sizes[weight.rows] * sweep.sizes[weight.columns] *
                                                        weight.matrices.size());
            }
        else
            operations += 4.0 * static_cast<double>(sweep.sizes[size_of_result(sweep.program, i)]);
    threads = team_for(operations * static_cast<double>(Rows(sweep.steps).all()), threads);
    run_team(threads, Walk<Real>(sweep, threads));
}

template void run(const Sweep<float>&, std::size_t);
template void run(const Sweep<double>&, std::size_t);

}  // namespace bptt
