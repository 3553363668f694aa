// Threads that walk through the same sequence of phases together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace bptt {

// What the members of a team share while a task runs.
struct Phases {
    explicit Phases(std::size_t members)
        : members(members), claimed(members == 1 ? nullptr : new std::atomic<std::uint64_t>[members] {}) {}

    const std::size_t members;
    // Phase number in the high half, items claimed from this member's share in the low half: a claim made too late for
    // its phase fails by itself.
    const std::unique_ptr<std::atomic<std::uint64_t>[]> claimed;
    alignas(64) std::atomic<std::uint32_t> finished_items{0};
    std::atomic<std::uint32_t> finished_phases{0};
    // 1 + the member who goes on alone because others are kept from running; 0: all work.
    std::atomic<std::size_t> survivor{0};
};

// One member's walk. Every member runs the same task, that is the same phases with the same numbers of items.
class Member {
public:
    Member(Phases& phases, std::size_t index) : phases_(phases), index_(index) {}

    // Runs work(item) once for each item < items among all members, and returns when all are done. Each member begins
    // with a share of its own, the same in every phase of as many items, so that what it touched is in its own cache;
    // then it takes what others have not begun. A member that comes late keeps nobody waiting; one whom the system puts
    // to sleep in the middle of an item, because another process wants its core, does so once.
    template <class Work>
    void phase(std::size_t items, const Work& work) {
        if (phases_.members == 1) {
            for (std::size_t item = 0; item < items; ++item) work(item);
            return;
        }
        if (items == 0) return;
        const std::uint32_t number = number_++;
        if (is_over(number)) return;
        const Clock::time_point begun = Clock::now();
        std::uint32_t finished = 0;
        if (takes_part())
            for (std::size_t offset = 0; offset < phases_.members; ++offset) {
                const std::size_t owner = (index_ + offset) % phases_.members;
                const std::size_t begin = items * owner / phases_.members, end = items * (owner + 1) / phases_.members;
                for (std::size_t item; (item = begin + claim(number, owner, end - begin)) < end; ++finished) work(item);
            }
        finish(number, finished, items, begun);
    }

private:
    using Clock = std::chrono::steady_clock;

    bool takes_part() const {
        const std::size_t survivor = phases_.survivor.load(std::memory_order_relaxed);
        return survivor == 0 || survivor == index_ + 1;
    }
    bool is_over(std::uint32_t number) const {
        return phases_.finished_phases.load(std::memory_order_acquire) != number;
    }
    std::size_t claim(std::uint32_t number, std::size_t owner, std::size_t share);  // `share` if nothing is left
    void finish(std::uint32_t number, std::uint32_t finished, std::size_t items, Clock::time_point begun);

    Phases& phases_;
    std::size_t index_;
    std::uint32_t number_ = 0;
};

using Task = void (*)(const void* context, Member& member);

// Runs the task on the calling thread and up to threads - 1 of the process's workers. A call made while another is
// running, from another thread of the process, does its work alone.
void run_team(std::size_t threads, Task task, const void* context);

template <class Walk>
void run_team(std::size_t threads, const Walk& walk) {
    run_team(threads, [](const void* context, Member& member) { (*static_cast<const Walk*>(context))(member); }, &walk);
}

}  // namespace bptt
