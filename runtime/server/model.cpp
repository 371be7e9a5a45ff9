#include <utility> // before Boost 1.74's coroutines, which lack it

#include "model.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <sys/stat.h>

namespace actquant::server {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

// A file that was opened and has passed its self-test.
struct Model::Loaded {
    Loaded(const std::string& path, const Settings& settings)
        : identity(identity_of(path)), policy(path, settings.threads, settings.device),
          interface(std::make_shared<Interface>(policy.description(), settings.renamed)) {
        if (interface->about["golden"].empty()) {
            return;
        }
        aq_self_test_result found = policy.self_test();
        if (!found.passed) {
            char text[160];
            std::snprintf(text, sizeof(text),
                          "' fails its self-test: %.2g from what it answered where it was made, "
                          "%g is allowed",
                          found.worst, found.limit);
            throw FileError("'" + path + text);
        }
    }

    Chunk act(const Asked& asked);

    Identity identity;
    tools::Policy policy;
    std::shared_ptr<const Interface> interface;
};

Chunk Model::Loaded::act(const Asked& asked) {
    std::vector<aq_image> images;
    for (const Picture& picture : asked.pictures) {
        images.push_back(picture.view);
    }
    aq_observation observation{};
    observation.images = images.data();
    observation.image_count = images.size();
    observation.state = asked.state.data();
    observation.state_count = asked.state.size();
    observation.task = interface->has_language ? asked.task.c_str() : nullptr;
    aq_noise noise{};
    noise.values = asked.noise.empty() ? nullptr : asked.noise.data();
    noise.count = asked.noise.size();
    noise.seed = asked.seed.value_or(0);
    noise.has_seed = asked.seed.has_value();
    aq_previous previous = asked.previous;
    previous.actions = asked.rest.data();
    previous.action_count = asked.rest.size();

    Chunk chunk{std::vector<float>(interface->chunk_length * interface->action_dim), 0, 0};
    Clock::time_point begin = Clock::now();
    aq_status status = aq_act_after(policy.handle(), &observation, &noise,
                                    asked.rest.empty() ? nullptr : &previous, chunk.actions.data(),
                                    chunk.actions.size());
    chunk.seconds = Seconds(Clock::now() - begin).count();
    chunk.lost_tokens = policy.lost_tokens();
    switch (status) {
    case AQ_OK:
        return chunk;
    case AQ_ERROR_ARGUMENT:
        throw MessageError(aq_last_error());
    case AQ_ERROR_FILE:
        throw FileError(aq_last_error());
    default:
        throw std::runtime_error(aq_last_error());
    }
}

Model::Model(std::string name, std::string path, const Settings& settings, Metrics& metrics)
    : called(std::move(name)), path(std::move(path)), settings(settings), metrics(metrics),
      loaded(load()) {}

std::shared_ptr<const Interface> Model::policy() const {
    return loaded->interface;
}

// What tells one file of a name from the next.
Model::Identity Model::identity_of(const std::string& path) {
    struct stat status{};
    if (stat(path.c_str(), &status) != 0) {
        throw FileError("cannot open the model file '" + path + "': " + std::strerror(errno));
    }
    return {static_cast<int64_t>(status.st_ino), status.st_size, status.st_mtim.tv_sec,
            status.st_mtim.tv_nsec};
}

std::shared_ptr<Model::Loaded> Model::load() const {
    return std::make_shared<Loaded>(path, settings);
}

asio::awaitable<Chunk> Model::act(const Asked& asked) {
    if (waiting >= settings.queue) {
        throw BusyError(std::to_string(settings.queue) + " requests wait for " + called +
                        " already; try later");
    }
    struct Place {
        explicit Place(Model& model) : model(model) { change(1); }
        ~Place() { change(-1); }
        void change(int by) {
            model.waiting += static_cast<size_t>(by);
            model.metrics.set_waiting(model.called, model.waiting);
        }
        Model& model;
    } place(*this);
    Clock::time_point deadline =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(settings.deadline);
    auto in_turn = [this, &asked, deadline, now = loaded]() -> asio::awaitable<Chunk> {
        if (Clock::now() > deadline) {
            char text[32];
            std::snprintf(text, sizeof(text), "%g", settings.deadline.count());
            throw BusyError(std::string("the request waited longer than ") + text + " s for " +
                            called);
        }
        co_return now->act(asked);
    };
    try {
        Chunk chunk =
            co_await asio::co_spawn(worker.get_executor(), std::move(in_turn), asio::use_awaitable);
        broken = false;
        warn_of_cut(asked, chunk);
        co_return chunk;
    } catch (const FileError&) {
        broken = true;
        throw;
    }
}

// Whoever speaks to a policy should know what it does not hear; once for a task is enough.
void Model::warn_of_cut(const Asked& asked, const Chunk& chunk) {
    std::string task = chunk.lost_tokens > 0 ? in_quotes(asked.task) : cut_task;
    if (task == cut_task) {
        return;
    }
    cut_task = task;
    std::fprintf(stderr, "%s: the policy has no room for the last %lld tokens of the task %s\n",
                 called.c_str(), static_cast<long long>(chunk.lost_tokens), task.c_str());
}

void Model::check_interface(const Interface& other) const {
    const Json& old = loaded->interface->about;
    std::string differ;
    for (const char* path : {"/cameras", "/optional_cameras", "/observation_steps", "/state/names",
                             "/action/names", "/action/chunk_length"}) {
        Json::json_pointer place(path);
        if (old[place] != other.about[place]) {
            differ += (differ.empty() ? "" : ", ") + std::string(path + 1);
        }
    }
    if (!differ.empty()) {
        throw FileError("it differs in " + differ);
    }
}

asio::awaitable<void> Model::look_for_another_file() {
    Identity found{};
    try {
        found = identity_of(path);
    } catch (const FileError&) {
        co_return; // for a moment, or for good: what is open stays
    }
    if (found == loaded->identity || found == refused) {
        co_return;
    }
    try {
        auto other = co_await asio::co_spawn(
            loader.get_executor(),
            [this]() -> asio::awaitable<std::shared_ptr<Loaded>> { co_return load(); },
            asio::use_awaitable);
        check_interface(*other->interface);
        loaded = other;
        broken = false;
        metrics.count_reload(called, "taken");
        std::fprintf(stderr, "%s: a new file was taken\n", called.c_str());
    } catch (const std::exception& error) { // whatever is wrong with it, the old one goes on
        refused = found;
        metrics.count_reload(called, "refused");
        std::fprintf(stderr, "%s: the new file is not taken: %s\n", called.c_str(), error.what());
    }
}

} // namespace actquant::server
