#pragma once

#include "metrics.h"
#include "session.h"
#include "settings.h"

#include "policy.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/thread_pool.hpp>

#include <array>

namespace actquant::server {

// Too many requests wait for a policy, or one waited too long.
class BusyError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A policy's file is missing, damaged, or was written to.
class FileError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Chunk {
    std::vector<float> actions; // [chunk length, action dimension]
    double seconds;             // that the policy took
    int64_t lost_tokens;        // of the prompt, for which the policy has no room
};

// A policy under a name: requests wait in line. Used from the thread that serves; the policy
// computes in a thread of its own.
class Model {
  public:
    // Opens the file and runs its self-test. Throws std::runtime_error if it cannot be served.
    Model(std::string name, std::string path, const Settings& settings, Metrics& metrics);

    const std::string& name() const { return called; }
    bool is_broken() const { return broken; }
    std::shared_ptr<const Interface> policy() const;

    // The chunk for what is asked, when it is its turn. Throws BusyError, MessageError for what
    // does not fit the policy, FileError, std::runtime_error.
    boost::asio::awaitable<Chunk> act(const Asked& asked);

    // Takes over a file that was renamed to this one's path, if it has the same interface. The old
    // one goes on meanwhile, and for good where the new one cannot take its place.
    boost::asio::awaitable<void> look_for_another_file();

    // Waits for what is being computed.
    void close() {
        worker.join();
        loader.join();
    }

  private:
    using Identity = std::array<int64_t, 4>;
    struct Loaded;

    static Identity identity_of(const std::string& path);
    std::shared_ptr<Loaded> load() const;
    void warn_of_cut(const Asked& asked, const Chunk& chunk);
    void check_interface(const Interface& other) const;

    std::string called, path;
    const Settings& settings;
    Metrics& metrics;
    bool broken = false;
    size_t waiting = 0;
    std::shared_ptr<Loaded> loaded;
    Identity refused{};
    std::string cut_task; // that was warned of
    boost::asio::thread_pool worker{1}, loader{1};
};

} // namespace actquant::server
