//! Memory as a ring's slot would be: aligned, and full of somebody else's bytes.
#![allow(dead_code, unsafe_code, reason = "each test uses what it needs")]

use std::ops::Range;
use std::ptr::NonNull;

use ringmill_wire::{ALIGNMENT, Template};

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line([u8; ALIGNMENT]);

/// One region, of a template's size.
pub struct Region(Vec<Line>);

impl Region {
    /// Every byte is `dirt`.
    pub fn dirty(template: &Template, dirt: u8) -> Region {
        Region(vec![Line([dirt; ALIGNMENT]); template.bytes() / ALIGNMENT])
    }

    /// Every byte is `dirt`, then the template is stamped.
    pub fn stamped(template: &Template, dirt: u8) -> Region {
        let mut region = Region::dirty(template, dirt);
        // SAFETY: the region is aligned, of the template's size, and ours.
        unsafe { template.stamp(region.start().as_ptr()) };
        region
    }

    /// A region of these bytes, cut or filled up with zeros to the template's size.
    pub fn of(template: &Template, bytes: &[u8]) -> Region {
        let mut region = Region::dirty(template, 0);
        let length = bytes.len().min(template.bytes());
        region.bytes_mut()[..length].copy_from_slice(&bytes[..length]);
        region
    }

    pub fn start(&mut self) -> NonNull<u8> {
        NonNull::new(self.0.as_mut_ptr().cast()).unwrap()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: lines are plain bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * ALIGNMENT) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * ALIGNMENT) }
    }
}

/// Every buffer's capacity in the region, in order.
pub fn buffers(template: &Template) -> Vec<Range<usize>> {
    let mut buffers = Vec::new();
    for index in 0..template.schema().len() {
        let layout = template.column_layout(index);
        let offsets_bytes = 4 * (template.capacity().rows_max as usize + 1);
        buffers.extend(layout.validity_offset.map(|start| start..start + layout.validity_capacity));
        buffers.extend(layout.offsets_offset.map(|start| start..start + offsets_bytes));
        buffers.push(layout.values_offset..layout.values_offset + layout.values_capacity);
    }
    buffers
}
