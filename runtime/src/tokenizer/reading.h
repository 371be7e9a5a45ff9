#pragma once

#include "common/error.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <map>
#include <string>

namespace actquant {

// Steps of one kind, by their type in a tokenizer.json.
template <typename Step>
using StepReaders = std::map<std::string, std::function<Step(const nlohmann::json&, Problems&)>>;

// "A, B and C".
template <typename Step> std::string known_types(const StepReaders<Step>& readers) {
    std::string names;
    size_t left = readers.size();
    for (const auto& [type, reader] : readers) {
        left--;
        names += type + (left > 1 ? ", " : left == 1 ? " and " : "");
    }
    return names;
}

// The step that is described, `nothing` for null. What is unknown or wrong is added to `problems`.
template <typename Step>
Step read_step(const std::string& kind, const StepReaders<Step>& readers, const Step& nothing,
               const nlohmann::json& description, Problems& problems) {
    if (description.is_null()) {
        return nothing;
    }
    std::string type;
    try {
        type = description.at("type").get<std::string>();
        auto reader = readers.find(type);
        if (reader == readers.end()) {
            throw FileError("it is not supported; supported are " + known_types(readers));
        }
        return reader->second(description, problems);
    } catch (const std::exception& error) {
        problems.add("the " + kind + " '" + type + "': " + error.what());
        return nothing;
    }
}

} // namespace actquant
