#include "buffer.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <new>
#include <vector>

namespace bptt {

namespace {

constexpr std::align_val_t cache_line{64};

// What this thread has given back, the oldest first to go when it is too much.
class Shelf {
public:
    ~Shelf() {
        for (const Loan& loan : loans_) ::operator delete(loan.at, cache_line);
    }

    Loan take(std::size_t bytes) {
        auto best = loans_.end();
        for (auto loan = loans_.begin(); loan != loans_.end(); ++loan)
            if (loan->bytes >= bytes && loan->bytes / 2 <= bytes && (best == loans_.end() || loan->bytes < best->bytes))
                best = loan;
        if (best == loans_.end()) return {::operator new(bytes, cache_line), bytes};
        const Loan loan = *best;
        *best = loans_.back();
        loans_.pop_back();
        held_ -= loan.bytes;
        return loan;
    }

    void put(Loan loan) {
        if (loan.bytes > largest_kept) return ::operator delete(loan.at, cache_line);
        loans_.push_back(loan);
        held_ += loan.bytes;
        for (; held_ > most_held || loans_.size() > most_loans; loans_.erase(loans_.begin())) {
            held_ -= loans_.front().bytes;
            ::operator delete(loans_.front().at, cache_line);
        }
    }

private:
    static constexpr std::size_t largest_kept = 2 << 20, most_held = 16 << 20, most_loans = 32;

    std::vector<Loan> loans_;
    std::size_t held_ = 0;
};

thread_local Shelf shelf;

}  // namespace

Loan borrow(std::size_t bytes) { return shelf.take(bytes); }

void give_back(Loan loan) {
    if (loan.at) shelf.put(loan);
}

void prefer_large_pages([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr std::uintptr_t page = 4096;
    const auto begin = reinterpret_cast<std::uintptr_t>(at), first = (begin + page - 1) / page * page;
    const std::uintptr_t last = (begin + bytes) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: may fail
#endif
}

}  // namespace bptt
