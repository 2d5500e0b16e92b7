//! The functions that stand in front of the C library's.
//!
//! Each one is the plain call if nobody watches or if the file is none of the folder's. The variants for large files
//! (`open64` and so on) are the same functions: on the 64-bit systems that this runs on, all files are large. Functions
//! that take a variable list in C take it here as one more argument, which is where the calling conventions of x86-64
//! and AArch64 under Linux put it.

mod data;
mod descriptors;
mod names;

/// More names for a function.
macro_rules! aliases {
    ($($alias:ident = $function:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            extern "C" fn $alias($($argument: $kind),*) -> $result {
                $function($($argument),*)
            }
        )*
    };
}
use aliases;
