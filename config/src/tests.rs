//! What is accepted, what is named as a mistake, and that nothing makes the reader panic.

use crate::*;
