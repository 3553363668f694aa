#include "team.hpp"

#include <mutex>
#include <thread>

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

namespace bptt {

namespace {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// How long to look before sleeping, in pauses of some 10 to 40 ns. Within a call the next phase is near. Between calls
// the time of a short loss function; longer would take the core from whoever works in between.
constexpr int patience_within_a_call = 4000;
constexpr int patience_between_calls = 4000;

// Being kept from the core lasts for milliseconds, and happens again as long as the other process runs.
constexpr auto kept_waiting = std::chrono::microseconds(300);
constexpr auto alone_after_that = std::chrono::milliseconds(50);

bool look_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old, int patience) {
    for (int look = 0; look < patience; ++look) {
        if (value.load(std::memory_order_acquire) != old) return true;
        pause();
    }
    return false;
}

void wait_until_changed(const std::atomic<std::uint32_t>& value, std::uint32_t old, int patience) {
    if (!look_for_change(value, old, patience)) value.wait(old, std::memory_order_acquire);
}

// The workers of the process. They are never joined: at exit they sleep, and the pool is never destroyed.
class Pool {
public:
    // Runs the program on as many threads as asked; or returns false if another call is at it, or if threads of late
    // had to wait for a core.
    bool run(std::size_t threads, Program program, const void* context) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        if (!lock || Clock::now() < alone_until_) return false;
        for (; workers_ + 1 < threads; ++workers_)
            std::thread([this, index = workers_ + 1, seen = calls_.load()] { serve(index, seen); }).detach();

        Phases phases(threads);
        phases_ = &phases;
        program_ = program;
        context_ = context;
        inside_.store(0, std::memory_order_release);  // opens the door
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();

        Member caller(phases, 0);
        program(context, caller);

        // No phase is left, but a late worker may still be finding that out.
        std::uint32_t inside = inside_.fetch_or(closed, std::memory_order_acq_rel) | closed;
        for (; inside != closed; inside = inside_.load(std::memory_order_acquire))
            wait_until_changed(inside_, inside, patience_within_a_call);
        if (phases.survivor.load(std::memory_order_relaxed) != 0) alone_until_ = Clock::now() + alone_after_that;
        return true;
    }

private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::uint32_t closed = 1u << 31;

    void serve(std::size_t index, std::uint32_t seen) {
        for (;;) {
            wait_until_changed(calls_, seen, patience_between_calls);
            seen = calls_.load(std::memory_order_acquire);
            if (!enter()) continue;
            if (index < phases_->members) {
                Member member(*phases_, index);
                program_(context_, member);
            }
            if (inside_.fetch_sub(1, std::memory_order_acq_rel) - 1 == closed) inside_.notify_all();
        }
    }

    bool enter() {
        std::uint32_t inside = inside_.load(std::memory_order_acquire);
        while (!(inside & closed))
            if (inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) return true;
        return false;
    }

    std::mutex busy_;
    std::size_t workers_ = 0;
    Clock::time_point alone_until_{};
    Phases* phases_ = nullptr;
    Program program_ = nullptr;
    const void* context_ = nullptr;
    std::atomic<std::uint32_t> calls_{0};
    std::atomic<std::uint32_t> inside_{closed};  // workers in the current call
};

std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
    static std::mutex creating;
#if __has_include(<pthread.h>)
    // Threads do not survive a fork: the child leaves the old pool as it is and makes a new one when it needs it.
    static const int registered = pthread_atfork([] { creating.lock(); }, [] { creating.unlock(); },
                                                 [] {
                                                     pool.store(nullptr);
                                                     creating.unlock();
                                                 });
    static_cast<void>(registered);
#endif
    if (Pool* existing = pool.load(std::memory_order_acquire)) return *existing;
    const std::lock_guard<std::mutex> lock(creating);
    if (pool.load() == nullptr) pool.store(new Pool);
    return *pool.load();
}

}  // namespace

std::size_t Member::claim(std::uint32_t number, std::size_t owner, std::size_t share) {
    std::atomic<std::uint64_t>& claimed = phases_.claimed[owner];
    std::uint64_t current = claimed.load(std::memory_order_acquire);
    while (current >> 32 == number && (current & 0xffffffff) < share)
        if (claimed.compare_exchange_weak(current, current + 1, std::memory_order_acq_rel)) return current & 0xffffffff;
    return share;
}

void Member::finish(std::uint32_t number, std::uint32_t finished, std::size_t items, Clock::time_point begun) {
    if (finished != 0 && phases_.finished_items.fetch_add(finished, std::memory_order_acq_rel) + finished == items) {
        phases_.finished_items.store(0, std::memory_order_relaxed);
        for (std::size_t owner = 0; owner < phases_.members; ++owner)
            phases_.claimed[owner].store(std::uint64_t{number + 1} << 32, std::memory_order_release);
        phases_.finished_phases.store(number + 1, std::memory_order_release);
        phases_.finished_phases.notify_all();
        return;
    }
    if (look_for_change(phases_.finished_phases, number, patience_within_a_call)) return;
    const Clock::time_point waiting = Clock::now();
    phases_.finished_phases.wait(number, std::memory_order_acquire);
    if (finished == 0) return;
    // Shares differ by a factor of two at most, so whoever keeps us longer is not running.
    const auto own_work = waiting - begun;
    std::size_t nobody = 0;
    if (Clock::now() - waiting > 2 * own_work + kept_waiting)
        phases_.survivor.compare_exchange_strong(nobody, index_ + 1);
}

void run_team(std::size_t threads, Program program, const void* context) {
    if (threads > 1 && the_pool().run(threads, program, context)) return;
    Phases phases(1);
    Member alone(phases, 0);
    program(context, alone);
}

}  // namespace bptt
