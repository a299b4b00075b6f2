"""`jitsu doctor`: looks at the machine and at the suite, and says what is wrong and what to do.

One module for each concern. In each, `gather` collects facts and decides nothing, and `judge` is a pure function that
turns facts into findings.
"""
