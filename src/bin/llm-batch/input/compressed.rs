//! Compressed inputs: gzip and Zstandard, recognised by their first bytes, whatever their name.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

type Reader = Box<dyn Read + Send>;

/// Unpacks what is compressed and leaves the rest as it is. Also returns whether it was compressed.
///
/// Data that are damaged or cut off are an error of the reader, where that ends.
pub(super) fn unpack(mut reader: Reader) -> io::Result<(Reader, bool)> {
    let mut start = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut start)?;
    let is_gzip = start.starts_with(&[0x1f, 0x8b]);
    let is_zstd = start == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = Cursor::new(start).chain(reader);
    Ok(if is_gzip {
        let reader = Box::new(MultiGzDecoder::new(BufReader::new(whole)));
        (Box::new(Unpacked { reader, from: "gzip" }), true)
    } else if is_zstd {
        let reader = Box::new(Zstd::new(BufReader::new(whole)));
        (Box::new(Unpacked { reader, from: "zstd" }), true)
    } else {
        (Box::new(whole), false)
    })
}

/// A path without the ending of a compressed file.
pub(super) fn without_ending(path: &Path) -> PathBuf {
    let ending = path.extension().unwrap_or_default();
    if ["gz", "zst"]
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known))
    {
        path.with_extension("")
    } else {
        path.to_owned()
    }
}

/// Names the compression in errors.
struct Unpacked {
    reader: Reader,
    from: &'static str,
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(
                kind,
                format!("its {} data are damaged or cut off ({error})", self.from),
            ),
        })
    }
}

/// The frames of a Zstandard stream, one behind the other.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Begins the next frame. Returns `false` at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(false);
        }
        match self.decoder.reset(&mut self.source) {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let length = u64::from(length);
                let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
                if skipped < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(true)
    }

    /// Ends a frame that was decoded to its end.
    fn end(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match self.decoder.get_checksum_from_data() {
            Some(sum) if Some(sum) != self.decoder.get_calculated_checksum() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a checksum differs"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            } else if self.in_frame && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            } else if self.in_frame {
                self.end()?;
            } else if !self.begin()? {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let (mut reader, _) = unpack(Box::new(Cursor::new(bytes)))?;
        let mut all = Vec::new();
        reader.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn several_members_are_one_text() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        for pack in [gzip, zstd] {
            assert_eq!(read(pack(&text)).unwrap(), text);
            assert_eq!(
                read([pack(b"one\n"), pack(b""), pack(b"two")].concat()).unwrap(),
                b"one\ntwo"
            );
        }
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7];
        let framed = [zstd(b"a"), skipped.to_vec(), zstd(b"b")].concat();
        assert_eq!(read(framed).unwrap(), b"ab");
        assert_eq!(read(b"a\n".to_vec()).unwrap(), b"a\n");
        assert_eq!(read(Vec::new()).unwrap(), b"");
    }

    #[test]
    fn wherever_it_is_cut_off_it_is_an_error() {
        for packed in [gzip(b"some text of a file"), zstd(b"some text of a file")] {
            for end in 4..packed.len() {
                let error = read(packed[..end].to_vec()).unwrap_err().to_string();
                assert!(error.contains("cut off"), "{end}: {error}");
            }
        }
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        for mut packed in [gzip(b"some text of a file"), zstd(b"some text of a file")] {
            let sum = packed.len() - if packed[0] == 0x1f { 8 } else { 4 };
            packed[sum] ^= 1;
            assert!(read(packed).is_err());
        }
    }
}
