#pragma once

#include "message.h"

#include <actquant.h>
#include <nlohmann/json.hpp>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace actquant::server {

using Json = nlohmann::json;

inline constexpr const char* options_key = "actquant";
inline constexpr const char* state_key = "observation.state";
inline constexpr const char* task_key = "task";

// A policy's inputs by all the names that a client may use for them: the policy's own, the same
// with slashes for dots, the last part alone, `prompt` for the task, and what `renamed` (a client's
// name
// -> the policy's, or nothing to leave it out) says. Throws std::runtime_error if that leads to
// what the policy does not take.
class Names {
  public:
    Names(const Json& about, const std::map<std::string, std::string>& renamed);

    // What the policy takes, as it calls it.
    const std::vector<std::string>& wanted() const { return all; }
    // The policy's name; empty for what is left out. Throws MessageError for an unknown name.
    std::string operator[](std::string_view theirs) const;

  private:
    std::vector<std::string> all;
    std::map<std::string, std::string, std::less<>> known;
    std::set<std::string, std::less<>> ignored;
};

// What a policy takes and gives, of aq_describe.
struct Interface {
    Interface(Json about, const std::map<std::string, std::string>& renamed);

    Json about;
    Names names;
    std::vector<std::string> cameras;
    size_t optional_cameras;
    size_t steps; // observations at a time
    size_t state_dim;
    size_t action_dim;
    size_t chunk_length;
    bool has_language;
    bool supports_guidance;
    std::vector<uint64_t> noise_shape;
};

// A picture [height, width, 3], and what keeps its pixels.
struct Picture {
    std::shared_ptr<const void> owner;
    aq_image view{};
};

// What a message asks for; see aq_act_after.
struct Asked {
    std::vector<Picture> pictures; // observation steps x cameras, oldest first
    std::vector<float> state;      // of all steps
    std::string task;
    std::vector<float> noise;
    std::optional<uint64_t> seed;
    std::vector<float> rest; // of the chunk before; empty: none
    aq_previous previous{};  // without its actions
};

// What the server keeps of a client between its messages: its window of observations and its last
// chunk.
class Session {
  public:
    explicit Session(std::shared_ptr<const Interface> policy) : policy(std::move(policy)) {}

    // `owner` keeps the bytes of the message. Throws MessageError for what does not fit.
    Asked take(const Map& message, const std::shared_ptr<const void>& owner);
    // Keeps the chunk that was sent.
    void keep(std::vector<float> actions) { chunk = std::move(actions); }

  private:
    struct Step {
        std::vector<Picture> pictures;
        std::vector<float> state;
    };
    struct Given;
    struct Options;

    Given given(const Map& message) const;
    Options options(const Map& message) const;
    std::vector<Step> steps(const Given& given, bool whole,
                            const std::shared_ptr<const void>& owner) const;
    void add_pictures(const std::string& camera, const Value* value, size_t count,
                      const std::shared_ptr<const void>& owner, std::vector<Step>& steps) const;
    void add_state(const Value* value, bool whole, std::vector<Step>& steps) const;
    void look_at(Step newest);
    void set_rest(const Options& options, Asked& asked) const;

    std::shared_ptr<const Interface> policy;
    std::deque<Step> window;
    std::vector<float> chunk;
};

} // namespace actquant::server
