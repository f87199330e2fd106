"""The servers that are compared: ours, those that people would use instead, and bare loops as yardsticks."""
