#include "buffer.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

namespace bptt {

namespace {

constexpr std::align_val_t cache_line{64};

// What has been given back, the oldest first to go when it is too much. Nobody waits for another here: who finds it
// taken goes to the system, so that a child of a fork cannot wait for a thread that it does not have.
class Shelf {
public:
    Loan take(std::size_t bytes) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        auto best = loans_.end();
        if (lock)
            for (auto loan = loans_.begin(); loan != loans_.end(); ++loan)
                if (loan->bytes >= bytes && loan->bytes / 2 <= bytes &&
                    (best == loans_.end() || loan->bytes < best->bytes))
                    best = loan;
        if (!lock || best == loans_.end()) return fresh(bytes);
        const Loan loan = *best;
        loans_.erase(best);
        held_ -= loan.bytes;
        return loan;
    }

    void put(Loan loan) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        if (!lock || loan.bytes > most_held) return drop(loan);
        loans_.push_back(loan);
        held_ += loan.bytes;
        for (; held_ > most_held || loans_.size() > most_loans; loans_.erase(loans_.begin())) {
            held_ -= loans_.front().bytes;
            drop(loans_.front());
        }
    }

private:
    static constexpr std::size_t most_held = 64 << 20, most_loans = 64, large = 1 << 20;

    static Loan fresh(std::size_t bytes) {
        const Loan loan{::operator new(bytes, cache_line), bytes};
        if (bytes >= large) prefer_large_pages(loan.at, bytes);
        return loan;
    }

    static void drop(Loan loan) { ::operator delete(loan.at, cache_line); }

    std::mutex busy_;
    std::vector<Loan> loans_;
    std::size_t held_ = 0;
};

// Never destroyed: tensors whose memory it is may outlive what is.
Shelf& shelf() {
    static Shelf* const only = new Shelf;
    return *only;
}

}  // namespace

Loan borrow(std::size_t bytes) { return shelf().take(bytes); }

void give_back(Loan loan) {
    if (loan.at) shelf().put(loan);
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
