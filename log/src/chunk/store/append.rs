//! [driver] Appending a frame to the open pack.

use crate::chunk::ChunkProblem;
use crate::chunk::frame::{self, Frame};
use crate::chunk::pack::{self, Location};
use crate::chunk::store::state::{Pack, State};
use crate::chunk::store::{EXIT_STORAGE, FileOf, Inner, storage};
use crate::env::disk::Open;
use crate::env::{Disk, Env, File, Runtime};
use aber_proto::ChunkHash;
use std::io;
use std::sync::Arc;

/// Payloads up to this length are written together with their header, in one call.
const JOINED_BYTES: usize = 32 * 1024;
/// Room is asked for each time this much was written.
const SPACE_CHECK_BYTES: u64 = 1024 * 1024;
/// A sync starts by itself at this many bytes or rows that are not durable.
const UNSYNCED_BYTES: u64 = 64 * 1024 * 1024;
const UNSYNCED_ROWS: usize = 8192;

/// Whether room is asked for before a frame is appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::chunk) enum Room {
    /// Refused below the reserve.
    Reserve,
    /// The sweep makes room by writing.
    Any,
}

impl<E: Env> Inner<E> {
    /// Appends a frame; with `instead_of`, only if the chunk is still there, and else only if it
    /// is nowhere yet. Answers whether it was appended.
    pub(in crate::chunk) fn append(
        self: &Arc<Self>,
        hash: ChunkHash,
        frame: &Frame,
        instead_of: Option<Location>,
        room: Room,
    ) -> Result<bool, ChunkProblem> {
        let mut state = self.lock();
        state.check_poison()?;
        if state.was_moved(&hash, instead_of) {
            return Ok(false);
        }
        if room == Room::Reserve {
            self.check_room(&mut state, frame.len() as u64)?;
        }
        let (pack, file, offset) = self.place_for(&mut state, frame.len() as u64)?;
        if let Err(error) = write_frame(&*file, frame, offset) {
            return Err(self.write_failed(&mut state, "writing a chunk", &error));
        }
        let location = Location::Pack {
            pack,
            offset: u32::try_from(offset).expect("a pack is shorter than 4 GiB"),
            frame_bytes: u32::try_from(frame.len()).expect("bounded by FRAME_MAX_BYTES"),
        };
        if let Some(pack) = state.packs.get_mut(&pack) {
            pack.length = location.span().1;
        }
        state.unsynced_bytes += frame.len() as u64;
        state.set_row(hash, Some(location));
        let is_much = state.unsynced_bytes > UNSYNCED_BYTES || state.rows.len() > UNSYNCED_ROWS;
        let is_late = is_much && !state.is_flushing;
        drop(state);
        if is_late {
            self.bell()?;
        }
        Ok(true)
    }

    fn check_room(
        &self,
        state: &mut State<FileOf<E>>,
        wanted_bytes: u64,
    ) -> Result<(), ChunkProblem> {
        state.unchecked_bytes = state.unchecked_bytes.saturating_add(wanted_bytes);
        if state.unchecked_bytes < SPACE_CHECK_BYTES {
            return Ok(());
        }
        let space = self
            .env
            .disk()
            .space()
            .map_err(|error| storage("asking for room", &error))?;
        let reserve_bytes = self.options.reserve_bytes(space.total_bytes);
        let free_bytes = space.free_bytes;
        if free_bytes < reserve_bytes.saturating_add(wanted_bytes) {
            // Ask again the next time, however little it is.
            state.unchecked_bytes = SPACE_CHECK_BYTES;
            return Err(ChunkProblem::NoSpace {
                free_bytes,
                reserve_bytes,
            });
        }
        state.unchecked_bytes = 0;
        Ok(())
    }

    /// The open pack, or a new one where it is full, and where the next frame goes.
    fn place_for(
        &self,
        state: &mut State<FileOf<E>>,
        frame_bytes: u64,
    ) -> Result<(u32, Arc<FileOf<E>>, u64), ChunkProblem> {
        let limit = u64::from(self.options.pack_bytes);
        if let Some(number) = state.open_pack()
            && let Some(open) = state.packs.get_mut(&number)
        {
            let has_room = open.length + frame_bytes <= limit;
            match &open.writer {
                Some(file) if has_room || open.length <= pack::PACK_HEADER_BYTES => {
                    return Ok((number, Arc::clone(file), open.length));
                }
                _ => {
                    open.is_closed = true;
                    open.closed_at = Some(self.env.runtime().now());
                }
            }
        }
        self.create_pack(state)
    }

    fn create_pack(
        &self,
        state: &mut State<FileOf<E>>,
    ) -> Result<(u32, Arc<FileOf<E>>, u64), ChunkProblem> {
        let number = state.next_pack;
        let path = pack::pack_path(number);
        let made = self.env.disk().open(&path, Open::CreateNew);
        let file = made.map_err(|error| self.write_failed(state, "making a pack", &error))?;
        // A failure after this leaves a file behind; its number is not used again.
        state.next_pack = number + 1;
        if let Err(error) = file.write_at(&pack::encode_header(self.cluster, number), 0) {
            return Err(self.write_failed(state, "making a pack", &error));
        }
        let file = Arc::new(file);
        let pack = Pack {
            length: pack::PACK_HEADER_BYTES,
            synced: 0,
            is_closed: false,
            is_sealed: false,
            closed_at: None,
            writer: Some(Arc::clone(&file)),
        };
        state.packs.insert(number, pack);
        Ok((number, file, pack::PACK_HEADER_BYTES))
    }

    /// A full disk is told; anything else poisons the store (promise D4).
    fn write_failed(
        &self,
        state: &mut State<FileOf<E>>,
        what: &str,
        error: &io::Error,
    ) -> ChunkProblem {
        if is_full(error) {
            state.unchecked_bytes = SPACE_CHECK_BYTES;
            let space = self.env.disk().space().ok();
            return ChunkProblem::NoSpace {
                free_bytes: space.map_or(0, |space| space.free_bytes),
                reserve_bytes: space
                    .map_or(0, |space| self.options.reserve_bytes(space.total_bytes)),
            };
        }
        let why = format!("the chunk store failed: {what}: {error}");
        state.poison.get_or_insert_with(|| why.clone());
        self.env.runtime().fail(EXIT_STORAGE, &why);
        ChunkProblem::Storage(format!("{what}: {error}"))
    }
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// One call for a short frame, two for a long one: its payload is not copied.
fn write_frame(file: &impl File, frame: &Frame, offset: u64) -> io::Result<()> {
    if frame.payload.len() <= JOINED_BYTES {
        return file.write_at(&frame.to_bytes(), offset);
    }
    file.write_at(&frame.header, offset)?;
    file.write_at(&frame.payload, offset + frame::HEADER_BYTES as u64)
}
