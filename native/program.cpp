// What makes a program one that can be run: all numbers in it point somewhere, and it is cut into segments.
#include "program.hpp"

#include <stdexcept>
#include <string>
#include <utility>

namespace bptt {

namespace {

void demand(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("a program ") + what);
}

template <class All>
bool is_in(int number, const All& all) {
    return number >= 0 && static_cast<std::size_t>(number) < all.size();
}

class Check {
public:
    explicit Check(const Program& program) : p_(program) {}

    void operator()() const {
        demand(p_.sizes > 0, "has sizes, the first of which is 1");
        inputs();
        groups();
        weights();
        products();
        carried();
        sums();
        for (const Instruction& instruction : p_.instructions) check(instruction);
    }

private:
    bool is_size(int size) const { return size >= 0 && size < p_.sizes; }
    template <class Piece>
    static bool is_block(const Piece& piece) {
        return piece.block >= 0 && piece.block < piece.blocks;
    }
    bool is_of_block(int slot) const { return p_.groups[p_.slots[slot].group].of_block; }
    int size_of(int slot) const { return p_.slots[slot].size; }

    bool is_vector(int vector) const {
        return vector >= 0 && static_cast<std::size_t>(vector) < p_.numbers.size() + p_.vectors.size();
    }

    bool are_rows(int rows, int size) const { return rows == -1 || (is_in(rows, p_.rows) && p_.rows[rows] == size); }

    void inputs() const {
        for (const Vector& vector : p_.vectors)
            demand(is_size(vector.size) && is_block(vector), "has vectors with sizes, one of some blocks");
        for (const Array& array : p_.arrays) demand(is_size(array.size), "has arrays with sizes");
        for (int size : p_.rows) demand(is_size(size), "has rows with sizes");
        for (const Given& matrix : p_.matrices)
            demand(is_size(matrix.rows) && is_size(matrix.columns) && is_block(matrix),
                   "has matrices with sizes, one of some blocks");
        for (const Number& number : p_.numbers)
            demand(number.size == -1 || is_size(number.size), "has numbers of sizes that there are");
    }

    void groups() const {
        std::size_t number = 0;
        for (std::size_t group = 0; group < p_.groups.size(); ++group)
            for (int place = 0; place < p_.groups[group].count; ++place, ++number) {
                demand(number < p_.slots.size(), "has all slots of its groups");
                const Slot& slot = p_.slots[number];
                demand(slot.group == static_cast<int>(group) && slot.place == place,
                       "has the slots of a group in order");
                demand(is_size(slot.size) && slot.size == p_.slots[number - static_cast<std::size_t>(place)].size,
                       "has slots of one size in a group");
            }
        demand(number == p_.slots.size(), "has no slot without a group");
    }

    void weights() const {
        for (const Weight& weight : p_.weights) {
            demand(is_size(weight.rows) && is_size(weight.columns) && !weight.matrices.empty(),
                   "has weights with sizes");
            for (int matrix : weight.matrices)
                demand(is_in(matrix, p_.matrices) && p_.matrices[matrix].rows == weight.rows &&
                           p_.matrices[matrix].columns == weight.columns,
                       "has weights of matrices that fit");
        }
    }

    void products() const {
        for (const std::vector<Factors>& product : p_.products) {
            demand(!product.empty(), "has a term in every product");
            for (const Factors& factors : product) {
                demand(is_in(factors.left, p_.slots) && is_in(factors.weight, p_.weights),
                       "multiplies slots with weights");
                demand(size_of(factors.left) == p_.weights[factors.weight].rows, "multiplies what fits");
            }
        }
        for (const Ahead& ahead : p_.ahead) {
            demand(is_in(ahead.to, p_.slots) && p_.slots[ahead.to].place == 0 && is_of_block(ahead.to),
                   "makes groups of a block ahead");
            const auto count = static_cast<std::size_t>(p_.groups[p_.slots[ahead.to].group].count);
            demand(ahead.vectors.size() == count, "begins every slot of a group");
            for (const std::vector<int>& vectors : ahead.vectors)
                for (int vector : vectors)
                    demand(is_vector(vector) && p_.size_of_vector(vector) == size_of(ahead.to),
                           "adds vectors that fit");
            for (const Factors& factors : ahead.terms) {
                demand(is_in(factors.left, p_.arrays) && is_in(factors.weight, p_.weights) &&
                           !p_.arrays[factors.left].of_block,
                       "multiplies arrays with weights");
                const Weight& weight = p_.weights[factors.weight];
                demand(p_.arrays[factors.left].size == weight.rows && size_of(ahead.to) == weight.columns &&
                           weight.matrices.size() == count,
                       "multiplies arrays that fit");
            }
        }
        for (const After& after : p_.after) {
            demand(is_in(after.to, p_.arrays) && !p_.arrays[after.to].of_block, "makes arrays of all steps");
            for (const Factors& factors : after.terms) {
                demand(is_in(factors.left, p_.slots) && is_in(factors.weight, p_.weights) && is_of_block(factors.left),
                       "multiplies slots of a block");
                const Weight& weight = p_.weights[factors.weight];
                demand(size_of(factors.left) == weight.rows && p_.arrays[after.to].size == weight.columns &&
                           weight.matrices.size() == 1,
                       "multiplies slots of a block that fit");
            }
        }
    }

    void carried() const {
        std::vector<bool> is_taken(p_.slots.size());
        for (const Carried& c : p_.carried) {
            take(c.slot, is_taken);
            if (c.next != -1) take(c.next, is_taken);
            demand(are_rows(c.first, size_of(c.slot)), "begins with rows that fit");
            demand(are_rows(c.last, size_of(c.slot)), "ends with rows that fit");
            demand(c.next == -1 || size_of(c.next) == size_of(c.slot), "carries on what fits");
        }
    }

    void take(int slot, std::vector<bool>& is_taken) const {
        demand(is_in(slot, p_.slots) && !is_taken[slot], "carries slots, each once");
        demand(p_.groups[p_.slots[slot].group].count == 1 && !is_of_block(slot),
               "carries slots that are alone and of a step");
        is_taken[slot] = true;
    }

    void sums() const {
        demand(p_.back || (p_.gradients.empty() && p_.after.empty()), "sums on the way back alone");
        for (const Result& result : p_.results)
            demand((result.rows == -1 || is_size(result.rows)) && is_size(result.columns) && is_block(result),
                   "has results with sizes, one of some blocks");
        for (const Gradient& g : p_.gradients) {
            demand(is_in(g.to, p_.results) && is_in(g.right, p_.slots) && is_of_block(g.right),
                   "sums slots of a block");
            const Result& result = p_.results[g.to];
            demand(size_of(g.right) == result.columns, "sums what fits");
            if (g.left == -1) {
                demand(result.rows == -1, "sums rows to a vector");
                continue;
            }
            demand(is_in(g.left, p_.arrays) && p_.arrays[g.left].size == result.rows, "sums products that fit");
            demand(are_rows(g.first, result.rows), "sums products with rows that fit");
            demand(!g.before || !p_.arrays[g.left].of_block, "has the step before of arrays of all steps alone");
        }
    }

    void check(const Instruction& i) const {
        demand(static_cast<int>(i.operation) <= static_cast<int>(Operation::where_inside), "knows its operations");
        if (i.operation == Operation::store) {
            demand(is_in(i.to, p_.arrays) && is_in(i.from[0], p_.slots), "stores slots in arrays");
            demand(p_.arrays[i.to].size == size_of(i.from[0]), "stores what fits");
            return;
        }
        demand(is_in(i.to, p_.slots), "writes to slots");
        const int size = size_of(i.to);
        if (i.operation == Operation::load || i.operation == Operation::previous) {
            demand(is_in(i.from[0], p_.arrays) && p_.arrays[i.from[0]].size == size && !p_.arrays[i.from[0]].of_block,
                   "loads what fits");
            if (i.operation == Operation::previous) demand(are_rows(i.from[1], size), "loads rows that fit");
        } else if (is_product(i.operation)) {
            demand(is_in(i.from[0], p_.products) && p_.slots[i.to].place == 0, "makes groups of products");
            for (const Factors& factors : p_.products[i.from[0]]) {
                const Weight& weight = p_.weights[factors.weight];
                demand(weight.columns == size, "makes products that fit");
                demand(static_cast<int>(weight.matrices.size()) == p_.groups[p_.slots[i.to].group].count,
                       "makes whole groups");
                demand(p_.slots[factors.left].group != p_.slots[i.to].group, "makes no product from itself");
            }
        } else {
            for (int k = 0; k < arity(i.operation); ++k) {
                const int from = i.from[k];
                demand(from < 0 ? is_vector(-1 - from) : is_in(from, p_.slots), "reads slots and vectors");
                const int own = from < 0 ? p_.size_of_vector(-1 - from) : size_of(from);
                if (is_of_rows(i.operation))
                    demand(size == 0 && own != 0, "makes one number of a row");
                else
                    demand(own == size || own == 0, "reads what is as wide as the result, or one number");
            }
        }
    }

    const Program& p_;
};

// The slots that an instruction reads in all of their columns: what stands left of a product, or a whole row.
template <class Visit>
void each_left(const Program& program, const Instruction& instruction, const Visit& visit) {
    if (is_of_rows(instruction.operation) && instruction.from[0] >= 0) visit(instruction.from[0]);
    if (!is_product(instruction.operation)) return;
    for (const Factors& factors : program.products[instruction.from[0]]) visit(factors.left);
}

template <class Visit>
void each_result(const Program& program, const Instruction& instruction, const Visit& visit) {
    if (instruction.operation == Operation::store) return;
    const int count = is_product(instruction.operation) ? program.groups[program.slots[instruction.to].group].count : 1;
    for (int slot = instruction.to; slot < instruction.to + count; ++slot) visit(slot);
}

// Where members that share columns wait: before a segment reads across what others may not have made yet, or writes
// what others may still read across; and around numbers, which one member makes for all.
void mark_waits(const Program& program, std::vector<Segment>& segments) {
    std::vector<bool> made(program.slots.size()), read(program.slots.size());  // since the last wait
    bool changed = true;
    for (int step = 0; changed || step < 2; ++step) {  // until one finds no wait that those before did not
        changed = false;
        for (std::size_t k = 0; k < segments.size(); ++k) {
            Segment& segment = segments[k];
            bool waits = segment.waits || segment.size == 0 || segments[k == 0 ? segments.size() - 1 : k - 1].size == 0;
            for (std::size_t i = segment.first; i < segment.last; ++i) {
                each_left(program, program.instructions[i], [&](int slot) { waits |= made[slot]; });
                each_result(program, program.instructions[i], [&](int slot) { waits |= read[slot]; });
            }
            changed |= waits && !segment.waits;
            segment.waits = waits;
            if (waits) {
                made.assign(made.size(), false);
                read.assign(read.size(), false);
            }
            for (std::size_t i = segment.first; i < segment.last; ++i) {
                each_left(program, program.instructions[i], [&](int slot) { read[slot] = true; });
                each_result(program, program.instructions[i], [&](int slot) { made[slot] = true; });
            }
        }
        // What is left of a product has another place at the next step; that of a carried slot is the one of the next.
        std::vector<bool> before = read;
        for (const std::vector<Factors>& product : program.products)
            for (const Factors& factors : product) read[factors.left] = false;
        for (const Carried& carried : program.carried) {
            if (carried.next < 0) continue;
            const bool was_made = made[carried.slot];
            made[carried.slot] = made[carried.next];
            made[carried.next] = was_made;
            read[carried.slot] = before[carried.next];
            read[carried.next] = before[carried.slot];
        }
    }
}

std::vector<Segment> segments_of(const Program& program) {
    std::vector<Segment> segments;
    std::vector<bool> made(program.slots.size());  // in the last segment
    bool is_open = false;
    for (std::size_t k = 0; k < program.instructions.size(); ++k) {
        const Instruction& instruction = program.instructions[k];
        const int size = program.size_of_result(instruction);
        bool begins = !is_open || segments.back().size != size || is_of_rows(instruction.operation);
        each_left(program, instruction, [&](int slot) { begins |= made[slot]; });
        if (begins) {
            segments.push_back({k, k, size, false});
            made.assign(made.size(), false);
        }
        segments.back().last = k + 1;
        is_open = !is_of_rows(instruction.operation);
        each_result(program, instruction, [&](int slot) { made[slot] = true; });
    }
    return segments;
}

// Entries store what they make themselves, where a store of it is in the same segment: so memory is written between
// arithmetic, not all at once.
void move_stores(Program& program) {
    std::vector<bool> is_moved(program.instructions.size());
    for (const Segment& segment : segments_of(program)) {
        if (segment.size == 0) continue;
        for (std::size_t k = segment.first; k < segment.last; ++k) {
            const Instruction& store = program.instructions[k];
            if (store.operation != Operation::store) continue;
            for (std::size_t maker = k; maker-- > segment.first;) {
                bool makes = false;
                each_result(program, program.instructions[maker], [&](int slot) { makes |= slot == store.from[0]; });
                if (!makes) continue;
                Instruction& entries = program.instructions[maker];
                is_moved[k] = is_of_entries(entries.operation) && entries.also < 0;
                if (is_moved[k]) entries.also = store.to;
                break;
            }
        }
    }
    std::vector<Instruction> left;
    for (std::size_t k = 0; k < is_moved.size(); ++k)
        if (!is_moved[k]) left.push_back(program.instructions[k]);
    program.instructions = std::move(left);
}

std::vector<int> only_loaded_in(const Program& program) {
    std::vector<int> found(program.slots.size(), -1), writers(program.slots.size());
    for (const Instruction& i : program.instructions) {
        each_result(program, i, [&](int slot) { ++writers[slot]; });
        if (i.operation == Operation::load) found[i.to] = i.from[0];
    }
    const auto stays = [&](int slot) {
        if (slot >= 0) found[slot] = -1;
    };
    for (std::size_t slot = 0; slot < found.size(); ++slot) {
        const Slot& own = program.slots[slot];
        const Group& group = program.groups[own.group];
        if (writers[slot] != 1 || own.size == 0 || group.of_block || group.count != 1) found[slot] = -1;
    }
    for (const Instruction& i : program.instructions)
        if (i.operation == Operation::store) stays(i.from[0]);
    for (const std::vector<Factors>& product : program.products)
        for (const Factors& factors : product) stays(factors.left);
    for (const Carried& carried : program.carried) {
        stays(carried.slot);
        stays(carried.next);
    }
    return found;
}

}  // namespace

void Program::prepare() {
    Check{*this}();
    move_stores(*this);
    segments = segments_of(*this);
    mark_waits(*this, segments);
    only_loaded = only_loaded_in(*this);
}

}  // namespace bptt
