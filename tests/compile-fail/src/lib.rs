//! The texts of compiler errors: see `cases` beside this file.
