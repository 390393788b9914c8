package rekor

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sigstore/rekor/pkg/types"
	alpine "github.com/sigstore/rekor/pkg/types/alpine/v0.0.1"
	jar "github.com/sigstore/rekor/pkg/types/jar/v0.0.1"
	rpm "github.com/sigstore/rekor/pkg/types/rpm/v0.0.1"
)

const (
	maxMetadata = 1 << 20   // one metadata file of a package, rekor-server's default
	maxControl  = 16 << 20  // the control part of an Alpine package, unpacked
	maxUnpacked = 256 << 20 // all files of a jar, unpacked
)

// boundContent refuses a package that would make rekor's types allocate or unpack without
// bound: they believe the sizes that it states, and running out of memory is no panic that
// could be recovered. rekor-server bounds some of it by flags that a library cannot set.
func boundContent(entry types.EntryImpl) error {
	switch e := entry.(type) {
	case *alpine.V001Entry:
		if p := e.AlpineModel.Package; p != nil && len(p.Content) > 0 {
			return boundAlpine(p.Content)
		}
	case *jar.V001Entry:
		if a := e.JARModel.Archive; a != nil && len(a.Content) > 0 {
			return boundJar(a.Content)
		}
	case *rpm.V001Entry:
		if p := e.RPMModel.Package; p != nil && len(p.Content) > 0 {
			return boundRPM(p.Content)
		}
	}
	return nil
}

// boundAlpine looks at the first two of the three gzip members of an Alpine package:
// signature, control, data.
func boundAlpine(content []byte) error {
	in := bufio.NewReader(bytes.NewReader(content))
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("unpack Alpine package: %w", err)
	}
	for _, limit := range []int64{maxMetadata, maxControl} {
		z.Multistream(false)
		unpacked, err := io.ReadAll(io.LimitReader(z, limit+1))
		if err != nil {
			return fmt.Errorf("unpack Alpine package: %w", err)
		}
		if int64(len(unpacked)) > limit {
			return fmt.Errorf("unpack Alpine package: metadata beyond %d bytes", limit)
		}
		if err := boundTar(unpacked); err != nil {
			return fmt.Errorf("unpack Alpine package: %w", err)
		}
		// The next member, if there is one; rekor's type says what is missing.
		if err := z.Reset(in); err != nil {
			return nil
		}
	}
	return nil
}

// boundTar refuses a metadata file that states more than is there or allowed.
func boundTar(unpacked []byte) error {
	t := tar.NewReader(bytes.NewReader(unpacked))
	for {
		h, err := t.Next()
		if err != nil {
			return nil // the end, or what rekor's type refuses before it allocates
		}
		if (strings.HasPrefix(h.Name, ".SIGN") || h.Name == ".PKGINFO") && (h.Size < 0 || h.Size > maxMetadata) {
			return fmt.Errorf("file %q states %d bytes, want at most %d", h.Name, h.Size, maxMetadata)
		}
	}
}

// boundJar adds up the stated sizes: archive/zip reads no file beyond the size it states.
func boundJar(content []byte) error {
	z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return fmt.Errorf("unpack jar: %w", err)
	}
	var sum uint64
	for _, f := range z.File {
		metadata := strings.HasPrefix(strings.ToUpper(f.Name), "META-INF/")
		if f.UncompressedSize64 > maxUnpacked || metadata && f.UncompressedSize64 > maxMetadata {
			return fmt.Errorf("unpack jar: file %q states %d bytes", f.Name, f.UncompressedSize64)
		}
		if sum += f.UncompressedSize64; sum > maxUnpacked {
			return fmt.Errorf("unpack jar: more than %d bytes", maxUnpacked)
		}
	}
	return nil
}

// boundRPM holds the sizes in the two header intros against what is there: a lead of 96
// bytes, then the signature header, padded to 8 bytes, then the general header. An intro is
// 8 bytes of magic and version, the number of 16-byte index entries, and the data size.
func boundRPM(content []byte) error {
	const lead, intro = 96, 16
	at := uint64(lead)
	for range 2 {
		if at+intro > uint64(len(content)) {
			return errors.New("unpack RPM: truncated")
		}
		entries := binary.BigEndian.Uint32(content[at+8:])
		size := binary.BigEndian.Uint32(content[at+12:])
		at += intro + 16*uint64(entries) + (uint64(size)+7)/8*8
		if entries > 1<<20 || at > uint64(len(content))+8 {
			return errors.New("unpack RPM: a header states more than is there")
		}
	}
	return nil
}
