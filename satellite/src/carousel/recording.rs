//! A stream in a file: each packet behind a mark and its length. What was damaged in the file is passed over, up to
//! the next mark; a mark in the middle of a packet harms nothing, since packets are signed.

use super::MAX_PACKET_BYTES;

const MARK: [u8; 4] = *b"MHCP";
const HEAD_BYTES: usize = 6;

/// A packet as it lies in a file: the mark, its length (2 bytes, little-endian) and the packet.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    [&MARK[..], &length.to_le_bytes(), packet].concat()
}

/// Finds the packets in the bytes of such a file, given piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Unframer {
    waiting: Vec<u8>,
    at: usize,
    skipped_bytes: u64,
}

impl Unframer {
    /// Adds the next bytes of the file. Take all packets with [`take`](Self::take) before the next ones.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.drain(..self.at);
        self.at = 0;
        self.waiting.extend_from_slice(bytes);
    }

    /// The next packet that is whole.
    pub fn take(&mut self) -> Option<&[u8]> {
        loop {
            let rest = self.waiting.get(self.at..)?;
            let (head, rest) = rest.split_at_checked(HEAD_BYTES)?;
            let length = match head {
                [a, b, c, d, low, high] if [*a, *b, *c, *d] == MARK => usize::from(u16::from_le_bytes([*low, *high])),
                _ => usize::MAX,
            };
            if (1..=MAX_PACKET_BYTES).contains(&length) {
                if rest.len() < length {
                    return None;
                }
                let start = self.at + HEAD_BYTES;
                self.at = start + length;
                return self.waiting.get(start..start + length);
            }
            self.at += 1;
            self.skipped_bytes += 1;
        }
    }

    /// Bytes that were no packets.
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &[u8], step: usize) -> (Vec<Vec<u8>>, u64) {
        let (mut unframer, mut packets) = (Unframer::default(), vec![]);
        for piece in file.chunks(step) {
            unframer.push(piece);
            while let Some(packet) = unframer.take() {
                packets.push(packet.to_vec());
            }
        }
        (packets, unframer.skipped_bytes())
    }

    #[test]
    fn packets_are_found_again_whatever_the_pieces_and_the_damage() {
        let packets = [vec![1; 1], vec![2; MAX_PACKET_BYTES], b"MHCP".to_vec(), vec![4; 100]];
        let good: Vec<u8> = packets.iter().flat_map(|packet| frame(packet)).collect();
        for step in [1, 5, 1_000, good.len()] {
            assert_eq!(read(&good, step), (packets.to_vec(), 0), "{step}");
        }
        let mut bad = good.clone();
        bad[7 + 4] = 0;
        bad[7 + 5] = 0;
        let found = read(&bad, 64).0;
        assert_eq!((found.first(), found.last()), (Some(&packets[0]), Some(&packets[3])), "the second is lost");
        let (found, skipped) = read(&[b"noise MHC", &good[..]].concat(), 100);
        assert_eq!((found, skipped), (packets.to_vec(), 9));
        assert_eq!(read(&good[..good.len() - 1], 100).0.len(), 3, "the last one is cut");
    }
}
