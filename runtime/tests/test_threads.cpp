// One session used from several threads: each reads its own answers and its own errors.
#include "check.h"
#include "tiny_policy.h"

#include <barrier>
#include <functional>
#include <thread>
#include <vector>

static const char* path = "threads.gguf";
static const int thread_count = 4;
static const int rounds = 100;

struct Actions {
    float values[2] = {};
    bool operator==(const Actions&) const = default;
};

// Thread k's prompt has 1 to 3 tokens, so that neighbours need graphs of other lengths.
static Actions act(aq_session* session, int k) {
    static const char* const tasks[] = {"a", "ba", "bab"};
    Scene scene;
    scene.task = tasks[k % 3];
    aq_observation observation = scene.observation();
    float start[2] = {static_cast<float>(k), -3.0f * static_cast<float>(k)};
    aq_noise noise = {start, 2, 0, 0};
    Actions actions;
    CHECK(aq_act(session, &observation, &noise, actions.values, 2) == AQ_OK);
    return actions;
}

// Calls work(k, round) in every thread k at a time, round by round.
static void in_threads(const std::function<void(int, int)>& work) {
    std::barrier together(thread_count);
    std::vector<std::thread> threads;
    for (int k = 0; k < thread_count; k++) {
        threads.emplace_back([&, k] {
            for (int round = 0; round < rounds; round++) {
                together.arrive_and_wait();
                work(k, round);
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
}

static void answers_are_those_of_one_thread(aq_session* session) {
    std::vector<Actions> alone;
    for (int k = 0; k < thread_count; k++) {
        alone.push_back(act(session, k));
    }
    CHECK(!(alone[0] == alone[1]) && !(alone[1] == alone[2]));
    in_threads([&](int k, int) {
        CHECK(act(session, k) == alone[k]);
        CHECK(aq_last_timings(session).total_ms > 0);
        CHECK(contains(aq_describe(session), "\"name\":\"tiny\""));
    });
}

// Thread k asks for room for 3 + k actions; each reads its error after all have failed.
static void each_thread_reads_its_own_error(aq_session* session) {
    std::barrier failed(thread_count);
    in_threads([&](int k, int) {
        Scene scene;
        aq_observation observation = scene.observation();
        float actions[2] = {};
        size_t room = static_cast<size_t>(3 + k);
        CHECK(aq_act(session, &observation, nullptr, actions, room) == AQ_ERROR_ARGUMENT);
        failed.arrive_and_wait();
        CHECK(contains(aq_last_error(), "room for " + std::to_string(room) + " actions"));
    });
}

static void an_error_is_not_seen_by_a_thread_that_failed_in_nothing(aq_session* session) {
    CHECK(aq_act(session, nullptr, nullptr, nullptr, 0) == AQ_ERROR_ARGUMENT);
    std::string seen = "nothing read";
    std::thread([&] { seen = aq_last_error(); }).join();
    CHECK(seen.empty());
}

static void sessions_are_opened_and_closed_at_a_time(const Actions& expected) {
    in_threads([&](int k, int round) {
        if ((round + k) % 5 != 0) {
            return; // opening takes milliseconds
        }
        aq_session* own = nullptr;
        CHECK(aq_open(path, 1, &own) == AQ_OK);
        CHECK(act(own, 1) == expected);
        aq_close(own);
        CHECK(aq_open("absent.gguf", 1, &own) == AQ_ERROR_FILE);
        CHECK(contains(aq_last_error(), "absent.gguf"));
    });
}

int main() {
    write_tiny_policy(path);
    aq_session* session = nullptr;
    CHECK(aq_open(path, 2, &session) == AQ_OK);
    answers_are_those_of_one_thread(session);
    each_thread_reads_its_own_error(session);
    an_error_is_not_seen_by_a_thread_that_failed_in_nothing(session);
    sessions_are_opened_and_closed_at_a_time(act(session, 1));
    aq_close(session);
}
