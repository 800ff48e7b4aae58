//! The primitives every body is made of, for wire and disk alike.
//!
//! Integers are big-endian; lengths, counts and counters are LEB128 varints in their shortest form;
//! a string or byte string is a varint length and its bytes; optional fields are tagged
//! (`tag u8, length varint, bytes`) at the end of a body, and unknown tags are skipped.
//!
//! Decoding is total: any bytes give a value or a [`DecodeError`], and nothing is allocated that the
//! bytes present do not pay for.

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes could not be decoded. Every variant names what was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes ended inside a field.
    #[error("truncated: {needed} more bytes needed, {left} left")]
    Truncated {
        /// How many bytes the field needs.
        needed: usize,
        /// How many are there.
        left: usize,
    },
    /// Bytes were left over after the last field.
    #[error("{left} bytes left over")]
    TrailingBytes {
        /// How many.
        left: usize,
    },
    /// A varint had more than ten bytes or was not in its shortest form.
    #[error("malformed varint")]
    MalformedVarint,
    /// A length or count was beyond its limit.
    #[error("{what} has length {length}, the limit is {max}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// What was claimed.
        length: u64,
        /// What is permitted.
        max: usize,
    },
    /// A field held a value that it must not hold.
    #[error("invalid {what}")]
    Invalid {
        /// The field.
        what: &'static str,
    },
    /// A message kind that this version does not know.
    #[error("unknown message kind 0x{kind:02x}")]
    UnknownKind {
        /// The kind byte.
        kind: u8,
    },
    /// A checksum did not match its bytes.
    #[error("checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// What the bytes claim.
        stored: u32,
        /// What they give.
        computed: u32,
    },
}

/// A value with one encoding, used on the wire and on disk.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn encode(&self, out: &mut BytesMut);

    /// Reads one value; leaves the reader behind it.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that are not an encoding of this type.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The encoding as a buffer of its own.
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// Decodes a buffer that holds exactly one value.
    ///
    /// # Errors
    /// As [`Wire::decode`], and [`DecodeError::TrailingBytes`] when something follows the value.
    fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }
}

/// Walks over a buffer. Byte strings come out as slices that share it, without a copy.
#[derive(Debug)]
pub struct Reader<'a> {
    whole: &'a Bytes,
    at: usize,
    end: usize,
}

macro_rules! reader_integer {
    ($($name:ident: $type:ty),*) => {$(
        /// Reads a big-endian integer.
        ///
        /// # Errors
        /// [`DecodeError::Truncated`].
        #[inline]
        pub fn $name(&mut self) -> Result<$type, DecodeError> {
            const SIZE: usize = size_of::<$type>();
            let mut array = [0; SIZE];
            array.copy_from_slice(self.slice(SIZE)?);
            Ok(<$type>::from_be_bytes(array))
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(whole: &'a Bytes) -> Self {
        Self {
            whole,
            at: 0,
            end: whole.len(),
        }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.end - self.at
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`] unless every byte has been read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { left }),
        }
    }

    /// The next `length` bytes, borrowed.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let left = self.left();
        if length > left {
            return Err(DecodeError::Truncated {
                needed: length,
                left,
            });
        }
        let slice = &self.whole[self.at..self.at + length];
        self.at += length;
        Ok(slice)
    }

    /// The next `length` bytes, sharing the buffer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn shared(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let from = self.at;
        self.slice(length)?;
        Ok(self.whole.slice(from..self.at))
    }

    reader_integer!(u8: u8, u16: u16, u32: u32, u64: u64, u128: u128);

    /// Reads a truth value: one byte, 0 or 1.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Invalid`] for any other byte.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { what }),
        }
    }

    /// Reads a LEB128 varint in its shortest form.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::MalformedVarint`].
    #[inline]
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit only.
            if shift == 63 && bits > 1 {
                return Err(DecodeError::MalformedVarint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded {
                    Err(DecodeError::MalformedVarint)
                } else {
                    Ok(value)
                };
            }
        }
        Err(DecodeError::MalformedVarint)
    }

    /// Reads a count or length and holds it against its limit and against the bytes that are left
    /// (each counted thing takes at least one byte), so that a hostile count allocates nothing.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`], [`DecodeError::Truncated`], [`DecodeError::MalformedVarint`].
    #[inline]
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, DecodeError> {
        let length = self.varint()?;
        if length > max as u64 {
            return Err(DecodeError::TooLong { what, length, max });
        }
        let length = length as usize;
        if length > self.left() {
            return Err(DecodeError::Truncated {
                needed: length,
                left: self.left(),
            });
        }
        Ok(length)
    }

    /// Reads a byte string of at most `max` bytes, sharing the buffer.
    ///
    /// # Errors
    /// As [`Reader::count`].
    #[inline]
    pub fn bytes(&mut self, what: &'static str, max: usize) -> Result<Bytes, DecodeError> {
        let length = self.count(what, max)?;
        self.shared(length)
    }

    /// Reads UTF-8 text of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Reader::count`], and [`DecodeError::Invalid`] for bytes that are not UTF-8.
    pub fn string(&mut self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let length = self.count(what, max)?;
        std::str::from_utf8(self.slice(length)?).map_err(|_| DecodeError::Invalid { what })
    }

    /// The next tagged field, or `None` at the end of the body. The reader it gives ends with the
    /// field, so that a tag whose form has grown can't run over.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::MalformedVarint`].
    #[inline]
    pub fn tag(&mut self) -> Result<Option<(u8, Reader<'a>)>, DecodeError> {
        if self.left() == 0 {
            return Ok(None);
        }
        let tag = self.u8()?;
        let length = self.count("tagged field", usize::MAX)?;
        let field = Reader {
            whole: self.whole,
            at: self.at,
            end: self.at + length,
        };
        self.at += length;
        Ok(Some((tag, field)))
    }

    /// A reader over the next `length` bytes only; this one goes on behind them.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn part(&mut self, length: usize) -> Result<Reader<'a>, DecodeError> {
        let at = self.at;
        self.slice(length)?;
        Ok(Reader {
            whole: self.whole,
            at,
            end: self.at,
        })
    }

    /// Everything that is left, sharing the buffer.
    pub fn rest(&mut self) -> Bytes {
        let rest = self.whole.slice(self.at..self.end);
        self.at = self.end;
        rest
    }
}

/// Appends a LEB128 varint in its shortest form.
#[inline]
pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends a byte string: its length as a varint, then its bytes.
#[inline]
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends text the same way.
#[inline]
pub fn put_string(out: &mut BytesMut, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Appends a truth value as one byte.
#[inline]
pub fn put_bool(out: &mut BytesMut, value: bool) {
    out.put_u8(u8::from(value));
}

/// Appends a tagged field that holds a byte string (without a second length).
#[inline]
pub fn put_tag_bytes(out: &mut BytesMut, tag: u8, bytes: &[u8]) {
    out.put_u8(tag);
    put_bytes(out, bytes);
}

/// Appends a tagged field that holds one byte.
#[inline]
pub fn put_tag_u8(out: &mut BytesMut, tag: u8, value: u8) {
    put_tag_bytes(out, tag, &[value]);
}

/// Appends a tagged field that holds a big-endian u64.
#[inline]
pub fn put_tag_u64(out: &mut BytesMut, tag: u8, value: u64) {
    put_tag_bytes(out, tag, &value.to_be_bytes());
}

/// Steps over tagged fields that a newer version has added.
///
/// # Errors
/// [`DecodeError`] when what is left is no row of tagged fields.
pub(crate) fn skip_tags(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    while reader.tag()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint_of(bytes: &[u8]) -> Result<u64, DecodeError> {
        let bytes = Bytes::copy_from_slice(bytes);
        let mut reader = Reader::new(&bytes);
        let value = reader.varint()?;
        reader.finish()?;
        Ok(value)
    }

    #[test]
    fn varints_have_one_form() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(varint_of(&out), Ok(value));
        }
        assert_eq!(varint_of(&[0x80, 0x00]), Err(DecodeError::MalformedVarint));
        assert_eq!(varint_of(&[0xff; 11]), Err(DecodeError::MalformedVarint));
        assert!(matches!(
            varint_of(&[0x80]),
            Err(DecodeError::Truncated { .. })
        ));
    }

    #[test]
    fn a_hostile_count_is_refused_before_allocation() {
        let mut out = BytesMut::new();
        put_varint(&mut out, u64::from(u32::MAX));
        let bytes = out.freeze();
        assert!(matches!(
            Reader::new(&bytes).count("items", 4096),
            Err(DecodeError::TooLong { .. })
        ));
        assert!(matches!(
            Reader::new(&bytes).count("items", usize::MAX),
            Err(DecodeError::Truncated { .. })
        ));
    }

    #[test]
    fn unknown_tags_are_skipped() {
        let mut out = BytesMut::new();
        put_tag_u64(&mut out, 200, 7);
        put_tag_u8(&mut out, 1, 9);
        let bytes = out.freeze();
        let mut reader = Reader::new(&bytes);
        let mut seen = None;
        while let Some((tag, mut field)) = reader.tag().unwrap() {
            if tag == 1 {
                seen = Some(field.u8().unwrap());
            }
        }
        assert_eq!(seen, Some(9));
    }
}
