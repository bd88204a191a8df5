//! Black-box tests of the composed system.
