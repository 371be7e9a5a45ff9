#include "session.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace actquant::server {
namespace {

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "" : ", ") + word;
    }
    return text;
}

std::string with_slashes(std::string name) {
    std::replace(name.begin(), name.end(), '.', '/');
    return name;
}

std::string option_name(std::string_view key) {
    return std::string(options_key) + "." + std::string(key);
}

// Numbers of an array, or of a list, which may hold lists of the same length.
struct Numbers {
    std::vector<uint64_t> shape;
    std::vector<float> values;
};

Numbers numbers_of_array(const Array& array) {
    Numbers numbers{array.shape, std::vector<float>(array.size())};
    for (size_t k = 0; k < numbers.values.size(); k++) {
        numbers.values[k] = array.number(k);
    }
    return numbers;
}

std::optional<double> number(const Value& value) {
    if (auto* natural = value.as<uint64_t>()) {
        return static_cast<double>(*natural);
    }
    if (auto* negative = value.as<int64_t>()) {
        return static_cast<double>(*negative);
    }
    if (auto* real = value.as<double>()) {
        return *real;
    }
    if (auto* truth = value.as<bool>()) {
        return *truth ? 1.0 : 0.0;
    }
    return std::nullopt;
}

void add_row(const std::string& name, const List& row, std::vector<float>& values) {
    for (const Value& each : row) {
        std::optional<double> found = number(each);
        if (!found) {
            throw MessageError(name + ": " + each.type() + " among its numbers");
        }
        values.push_back(static_cast<float>(*found));
    }
}

Numbers numbers_of(const std::string& name, const Value& value) {
    if (const Array* array = value.as<Array>()) {
        return numbers_of_array(*array);
    }
    const List& list = *value.as<List>();
    Numbers numbers{{list.size()}, {}};
    const List* first = list.empty() ? nullptr : list[0].as<List>();
    if (!first) {
        add_row(name, list, numbers.values);
        return numbers;
    }
    numbers.shape.push_back(first->size());
    for (const Value& each : list) {
        const List* row = each.as<List>();
        if (!row || row->size() != first->size()) {
            throw MessageError(name + ": its rows differ in length");
        }
        add_row(name, *row, numbers.values);
    }
    return numbers;
}

uint64_t natural(std::string_view key, const Value& value, uint64_t least = 0) {
    const uint64_t* number = value.as<uint64_t>();
    if (!number || *number < least) {
        throw MessageError(option_name(key) + " is " +
                           (number ? std::to_string(*number) : value.type()) +
                           ", expected a whole number from " + std::to_string(least));
    }
    return *number;
}

bool truth(std::string_view key, const Value& value) {
    const bool* found = value.as<bool>();
    if (!found) {
        throw MessageError(option_name(key) + " is " + value.type() + ", expected true or false");
    }
    return *found;
}

const Array* array(std::string_view key, const Value& value) {
    const Array* found = value.as<Array>();
    if (!found) {
        throw MessageError(option_name(key) + " is " + value.type() + ", expected an array");
    }
    return found;
}

float guidance(std::string_view key, const Value& value) {
    std::optional<double> found = value.as<bool>() ? std::nullopt : number(value);
    if (!found || !(*found > 0) || !std::isfinite(*found)) {
        throw MessageError(option_name(key) + " must be a number above 0");
    }
    using Limits = std::numeric_limits<float>;
    return static_cast<float>(std::clamp<double>(*found, Limits::min(), Limits::max()));
}

int32_t schedule(std::string_view key, const Value& value) {
    static const std::map<std::string_view, aq_schedule> known{{"linear", AQ_SCHEDULE_LINEAR},
                                                               {"zeros", AQ_SCHEDULE_ZEROS},
                                                               {"ones", AQ_SCHEDULE_ONES},
                                                               {"exp", AQ_SCHEDULE_EXP}};
    auto found = known.find(value.as<std::string_view>() ? *value.as<std::string_view>() : "");
    if (found == known.end()) {
        throw MessageError(option_name(key) + " is one of linear, zeros, ones, exp");
    }
    return found->second;
}

} // namespace

Names::Names(const Json& about, const std::map<std::string, std::string>& renamed)
    : all(about["cameras"]) {
    if (!about["state"]["names"].empty()) {
        all.push_back(state_key);
    }
    if (!about["prompt"].is_null()) {
        all.push_back(task_key);
        known["prompt"] = task_key;
    }
    for (const std::string& name : all) {
        known[name.substr(name.rfind('.') + 1)] = name;
    }
    for (const std::string& name : all) {
        known[name] = name;
        known[with_slashes(name)] = name;
    }
    for (const auto& [theirs, ours] : renamed) {
        if (!ours.empty() && std::find(all.begin(), all.end(), ours) == all.end()) {
            throw std::runtime_error("--rename " + theirs + "=" + ours + ": this policy takes " +
                                     joined(all));
        }
        known[theirs] = ours;
    }
    // A policy that takes no task or no state still gets them from a client that always sends.
    ignored = {task_key, "prompt", state_key, with_slashes(state_key), "state"};
}

std::string Names::operator[](std::string_view theirs) const {
    auto found = known.find(theirs);
    if (found != known.end()) {
        return found->second;
    }
    if (ignored.count(theirs) > 0) {
        return "";
    }
    throw MessageError("unknown key " + in_quotes(theirs) + "; this policy takes " + joined(all) +
                       " (--rename on the server)");
}

Interface::Interface(Json description, const std::map<std::string, std::string>& renamed)
    : about(std::move(description)), names(about, renamed), cameras(about["cameras"]),
      optional_cameras(about["optional_cameras"]), steps(about["observation_steps"]),
      state_dim(about["state"]["names"].size()), action_dim(about["action"]["names"].size()),
      chunk_length(about["action"]["chunk_length"]), has_language(!about["prompt"].is_null()),
      supports_guidance(about["supports_guidance"]), noise_shape(about["noise_shape"]) {}

// A message's parts by the policy's names.
struct Session::Given {
    std::map<std::string, const Value*> values;

    const Value* operator[](const std::string& name) const {
        auto found = values.find(name);
        return found == values.end() ? nullptr : found->second;
    }
};

// What a client may ask for beside a chunk; docs/serve.md has the table.
struct Session::Options {
    std::optional<uint64_t> seed;
    const Array* noise = nullptr;
    bool whole = false;
    bool reset = false;
    std::optional<uint64_t> executed;
    uint64_t delay = 0;
    uint64_t execution_horizon = 10;
    const Array* previous = nullptr;
    float max_guidance = 10;
    int32_t schedule = AQ_SCHEDULE_LINEAR;

    void set(std::string_view key, const Value& value) {
        bool may_be_null = true;
        if (key == "seed") {
            seed = value.is_null() ? std::nullopt : std::optional(natural(key, value));
        } else if (key == "noise") {
            noise = value.is_null() ? nullptr : array(key, value);
        } else if (key == "executed") {
            executed = value.is_null() ? std::nullopt : std::optional(natural(key, value));
        } else if (key == "previous") {
            previous = value.is_null() ? nullptr : array(key, value);
        } else {
            may_be_null = false;
        }
        if (may_be_null) {
            return;
        }
        if (key == "whole") {
            whole = truth(key, value);
        } else if (key == "reset") {
            reset = truth(key, value);
        } else if (key == "delay") {
            delay = natural(key, value);
        } else if (key == "execution_horizon") {
            execution_horizon = natural(key, value, 1);
        } else if (key == "max_guidance") {
            max_guidance = guidance(key, value);
        } else if (key == "schedule") {
            schedule = server::schedule(key, value);
        } else {
            throw MessageError(option_name(in_quotes(key).substr(1)) + ": there is no such option");
        }
    }
};

Session::Options Session::options(const Map& message) const {
    Options options;
    for (const auto& [key, value] : message) {
        if (*key.as<std::string_view>() != options_key) {
            continue;
        }
        const Map* map = value.as<Map>();
        if (!map) {
            throw MessageError(std::string(options_key) + " is " + value.type() +
                               ", expected a map");
        }
        for (const auto& [name, each] : *map) {
            const std::string_view* text = name.as<std::string_view>();
            if (!text) {
                throw MessageError(std::string(options_key) + " has a key of bytes");
            }
            options.set(*text, each);
        }
    }
    return options;
}

Session::Given Session::given(const Map& message) const {
    Given given;
    for (const auto& [key, value] : message) {
        std::string_view theirs = *key.as<std::string_view>();
        std::string name = theirs == options_key ? "" : policy->names[theirs];
        if (name.empty()) {
            continue;
        }
        if (!given.values.emplace(name, &value).second) {
            throw MessageError(name + " is there twice, also as " + in_quotes(theirs));
        }
        if (name == task_key && !value.as<std::string_view>()) {
            throw MessageError(name + " is " + value.type() + ", expected a text");
        }
        if (name != task_key && !value.as<Array>() && !value.as<List>()) {
            throw MessageError(name + " is " + value.type() + ", expected an array");
        }
    }
    return given;
}

// Adds to each step its picture of a camera.
void Session::add_pictures(const std::string& camera, const Value* value, size_t count,
                           const std::shared_ptr<const void>& owner,
                           std::vector<Step>& steps) const {
    if (!value) {
        for (Step& step : steps) {
            step.pictures.emplace_back();
        }
        return;
    }
    const Array* array = value->as<Array>();
    std::vector<uint64_t> shape = array ? array->shape : std::vector<uint64_t>();
    if (count > 1 && !shape.empty() && shape[0] == count) {
        shape.erase(shape.begin());
    } else if (count > 1) {
        shape.clear();
    }
    if (shape.size() != 3 || shape[2] != 3 || array->type() != "uint8") {
        throw MessageError(
            camera + " is " +
            (array ? array->type() + " " + shape_text(array->shape) : value->type()) +
            ", expected uint8 [" + (count > 1 ? std::to_string(count) + ", " : "") +
            "height, width, 3]");
    }
    size_t bytes = array->data.size() / count;
    for (size_t k = 0; k < count; k++) {
        auto* pixels = reinterpret_cast<const uint8_t*>(array->data.data() + k * bytes);
        steps[k].pictures.push_back(
            {owner, {pixels, static_cast<int64_t>(shape[0]), static_cast<int64_t>(shape[1])}});
    }
}

void Session::add_state(const Value* value, bool whole, std::vector<Step>& steps) const {
    if (policy->state_dim == 0) {
        return;
    }
    if (!value) {
        throw MessageError(std::string("the observation lacks '") + state_key + "'; expected " +
                           joined(policy->names.wanted()));
    }
    Numbers numbers = numbers_of(state_key, *value);
    std::vector<uint64_t> expected{policy->state_dim};
    if (whole && policy->steps > 1) {
        expected.insert(expected.begin(), policy->steps);
    }
    if (numbers.shape != expected) {
        throw MessageError(std::string(state_key) + " is " + shape_text(numbers.shape) +
                           ", expected " + shape_text(expected));
    }
    for (size_t k = 0; k < steps.size(); k++) {
        auto begin = numbers.values.begin() + static_cast<std::ptrdiff_t>(k * policy->state_dim);
        steps[k].state.assign(begin, begin + static_cast<std::ptrdiff_t>(policy->state_dim));
    }
}

// The observation of a message, or all of them.
std::vector<Session::Step> Session::steps(const Given& given, bool whole,
                                          const std::shared_ptr<const void>& owner) const {
    size_t count = whole ? policy->steps : 1;
    std::vector<Step> steps(count);
    size_t missing = 0;
    std::vector<std::string> seen;
    for (const std::string& camera : policy->cameras) {
        const Value* value = given[camera];
        missing += value == nullptr;
        if (value) {
            seen.push_back(camera);
        }
        add_pictures(camera, value, count, owner, steps);
    }
    if (missing > policy->optional_cameras) {
        throw MessageError("the observation has the images [" + joined(seen) + "]; expected [" +
                           joined(policy->cameras) + "], of which " +
                           std::to_string(policy->optional_cameras) + " may be absent");
    }
    add_state(given[state_key], whole, steps);
    return steps;
}

// Adds the newest observation; the first is repeated until there are enough.
void Session::look_at(Step newest) {
    do {
        window.push_back(newest);
    } while (window.size() < policy->steps);
    if (window.size() > policy->steps) {
        window.pop_front();
    }
    for (size_t k = 0; k < policy->cameras.size(); k++) {
        const aq_image& now = newest.pictures[k].view;
        for (const Step& step : window) {
            const aq_image& before = step.pictures[k].view;
            if (before.height != now.height || before.width != now.width ||
                !before.pixels != !now.pixels) {
                throw MessageError(policy->cameras[k] +
                                   " differs in size from the observation before, or is not in "
                                   "both; begin anew by " +
                                   option_name("reset"));
            }
        }
    }
}

void Session::set_rest(const Options& options, Asked& asked) const {
    size_t columns = policy->action_dim;
    if (options.previous) {
        const std::vector<uint64_t>& shape = options.previous->shape;
        if (shape.size() != 2 || shape[1] != columns) {
            throw MessageError(option_name("previous") + " is " + shape_text(shape) +
                               ", expected [n, " + std::to_string(columns) + "]");
        }
        asked.rest = numbers_of_array(*options.previous).values;
    } else if (options.executed && *options.executed * columns < chunk.size() &&
               *options.executed < policy->chunk_length) {
        asked.rest.assign(chunk.begin() + static_cast<std::ptrdiff_t>(*options.executed * columns),
                          chunk.end());
    }
    if (!asked.rest.empty() && !policy->supports_guidance) {
        throw MessageError("this policy cannot be guided by its last chunk: leave out " +
                           std::string(options_key));
    }
    uint64_t rows = asked.rest.size() / columns;
    asked.previous.delay = static_cast<int64_t>(std::min(options.delay, rows));
    asked.previous.execution_horizon =
        static_cast<int64_t>(std::min<uint64_t>(options.execution_horizon, INT32_MAX));
    asked.previous.max_guidance = options.max_guidance;
    asked.previous.schedule = options.schedule;
}

Asked Session::take(const Map& message, const std::shared_ptr<const void>& owner) {
    Options asked_for = options(message);
    Given values = given(message);
    Asked asked;
    if (policy->has_language) {
        const Value* task = values[task_key];
        if (!task) {
            throw MessageError("the observation lacks 'task' (a text); expected " +
                               joined(policy->names.wanted()));
        }
        asked.task = *task->as<std::string_view>();
        if (asked.task.find('\0') != asked.task.npos) {
            throw MessageError("'task' has a NUL character: " + in_quotes(asked.task));
        }
    }
    if (asked_for.noise) {
        if (asked_for.noise->shape != policy->noise_shape) {
            throw MessageError(option_name("noise") + " is " + shape_text(asked_for.noise->shape) +
                               ", expected " + shape_text(policy->noise_shape));
        }
        asked.noise = numbers_of_array(*asked_for.noise).values;
    }
    asked.seed = asked_for.seed;
    if (asked_for.reset) {
        window.clear();
        chunk.clear();
    }
    set_rest(asked_for, asked);
    std::vector<Step> seen = steps(values, asked_for.whole, owner);
    if (!asked_for.whole) {
        look_at(std::move(seen[0]));
    }
    auto add = [&asked](const Step& step) {
        asked.pictures.insert(asked.pictures.end(), step.pictures.begin(), step.pictures.end());
        asked.state.insert(asked.state.end(), step.state.begin(), step.state.end());
    };
    if (asked_for.whole) {
        std::for_each(seen.begin(), seen.end(), add);
    } else {
        std::for_each(window.begin(), window.end(), add);
    }
    return asked;
}

} // namespace actquant::server
