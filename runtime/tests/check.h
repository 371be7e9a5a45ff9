#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

// Ends the test with the place and the text of what does not hold.
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                   \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (false)

// The message of the exception that `function` must throw.
template <typename Exception, typename Function> std::string message_of(Function function) {
    try {
        function();
    } catch (const Exception& error) {
        return error.what();
    }
    std::fprintf(stderr, "nothing was thrown\n");
    std::exit(1);
}

inline bool contains(const std::string& text, const std::string& part) {
    bool found = text.find(part) != std::string::npos;
    if (!found) {
        std::fprintf(stderr, "'%s' is not in:\n%s\n", part.c_str(), text.c_str());
    }
    return found;
}
