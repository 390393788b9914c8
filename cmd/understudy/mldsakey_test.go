package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/youmark/pkcs8"
)

// passFile is a file with a passphrase.
func passFile(t testing.TB, text string) passphrases {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return passphrases{file}
}

// TestMLDSAKey: what is made opens again, under its name and its passphrase alone, and nothing that is
// there is overwritten.
func TestMLDSAKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	pass := passFile(t, "a horse")
	made, err := makeMLDSAKey(file, "log.example", pass)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := openMLDSA(file, "log.example", pass)
	if err != nil || !opened.Equal(made) {
		t.Fatalf("another key, or %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	if _, err := makeMLDSAKey(file, "log.example", pass); err == nil || !strings.Contains(err.Error(), "is there already, and is not overwritten") {
		t.Errorf("made again: %v", err)
	}
	signer, verifier, err := mldsaSigner("log.example", opened)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := os.ReadFile(file + ".pub")
	if err != nil || string(vkey) != mldsaVKey("log.example", made)+"\n" {
		t.Fatalf("%s, %v", vkey, err)
	}
	if err := tryNoteSigner(file, signer, verifier); err != nil {
		t.Error(err)
	}

	wrong := func(name, file, origin string, pass passphrases, want string) {
		t.Helper()
		if _, err := openMLDSA(file, origin, pass); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	wrong("another passphrase", file, "log.example", passFile(t, "a donkey"), "is the passphrase the right one")
	wrong("no passphrase", file, "log.example", passphrases{filepath.Join(t.TempDir(), "none")}, "read the passphrase")
	wrong("another name", file, "other.example", pass, "k.pub is not the verifier key of")
	if err := os.Remove(file + ".pub"); err != nil {
		t.Fatal(err)
	}
	wrong("no verifier key", file, "log.example", pass, "belongs beside it")
}

// cheap makes tries at passphrases cheap.
func cheap(t testing.TB) {
	old := keyCost
	keyCost = pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 2, BlockSize: 1, ParallelizationParameter: 1}
	t.Cleanup(func() { keyCost = old })
}

// TestMLDSAKeyDamaged: no flipped bit and no missing byte of a key file goes unnoticed.
func TestMLDSAKeyDamaged(t *testing.T) {
	cheap(t)
	file := filepath.Join(t.TempDir(), "k")
	pass := passFile(t, "a horse")
	if _, err := makeMLDSAKey(file, "log.example", pass); err != nil {
		t.Fatal(err)
	}
	block, err := readPEM(file)
	if err != nil {
		t.Fatal(err)
	}
	opens := func(der []byte) bool {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openMLDSA(file, "log.example", pass)
		return err == nil
	}
	if !opens(block.Bytes) {
		t.Fatal("what is whole does not open")
	}
	for i := range block.Bytes {
		for bit := range 8 {
			damaged := bytes.Clone(block.Bytes)
			damaged[i] ^= 1 << bit
			if opens(damaged) {
				t.Errorf("bit %d of byte %d", bit, i)
			}
		}
		if opens(block.Bytes[:i]) {
			t.Errorf("cut off after %d bytes", i)
		}
	}
	if opens(append(bytes.Clone(block.Bytes), 0)) {
		t.Error("a byte too many")
	}
}

// TestEncryptPKCS8: what we encrypt is what the library reads, and the other way round.
func TestEncryptPKCS8(t *testing.T) {
	cheap(t)
	pass := passFile(t, "a horse")
	file := filepath.Join(t.TempDir(), "k")
	signer, err := makeEd25519Key(file, pass)
	if err != nil {
		t.Fatal(err)
	}
	block, err := readPEM(file)
	if err != nil {
		t.Fatal(err)
	}
	private, _, err := pkcs8.ParsePrivateKey(block.Bytes, []byte("a horse"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := pkcs8.MarshalPrivateKey(private, []byte("b"), &pkcs8.Opts{Cipher: pkcs8.AES256CBC, KDFOpts: keyCost})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := decryptPKCS8(der, []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := x509.ParsePKCS8PrivateKey(plain); err != nil || !reflect.DeepEqual(private, again) {
		t.Errorf("another key, or %v", err)
	}
	opened, err := openSigner(t.Context(), file, pass)
	if err != nil {
		t.Fatal(err)
	}
	a, errA := signer.PublicKey()
	b, errB := opened.PublicKey()
	if errA != nil || errB != nil || !reflect.DeepEqual(a, b) {
		t.Error("another public key")
	}
	if _, err := parseMLDSA(plain); err == nil {
		t.Error("an Ed25519 key is taken for one of ML-DSA-44")
	}
	other, err := pkcs8.MarshalPrivateKey(private, []byte("b"), nil) // PBKDF2
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decryptMLDSA(&pem.Block{Bytes: other}, []byte("b")); err == nil || !strings.Contains(err.Error(), "not encrypted with scrypt and AES-256-CBC") {
		t.Errorf("PBKDF2: %v", err)
	}
}

// TestEncryptedCosts: a file cannot make us use all memory.
func TestEncryptedCosts(t *testing.T) {
	cheap(t)
	der, err := encryptPKCS8([]byte("x"), []byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := parseEncrypted(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, cost := range [][3]int{{1 << 14, 8, 5}, {1 << 15, 8, 1}, {1 << 16, 8, 1}, {1 << 40, 1, 1}, {1 << 18, 1, 17}, {2, 1 << 40, 1}, {2, 1, 1 << 40}, {0, 1, 1}, {2, 0, 1}, {2, 1, 0}, {2, -1, 1}, {-2, -1, -1}} {
		k := whole
		s := &k.Algorithm.PBES2.KDF.Scrypt
		s.Cost, s.BlockSize, s.Parallelism = cost[0], cost[1], cost[2]
		der, err := asn1.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		good := cost[0] >= 1<<14 && cost[0] <= 1<<15
		if _, err := parseEncrypted(der); (err == nil) != good {
			t.Errorf("%d: %v", cost, err)
		}
	}
}

// FuzzEncryptedKey: what is accepted encodes to the same bytes.
func FuzzEncryptedKey(f *testing.F) {
	cheap(f)
	der, err := encryptPKCS8([]byte("x"), []byte("b"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(der[:len(der)-1])
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := parseEncrypted(der)
		if err != nil {
			return
		}
		if again, err := asn1.Marshal(k); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x becomes %x, %v", der, again, err)
		}
	})
}

// FuzzMLDSA: what is accepted encodes to the same bytes, and is what a parser of ASN.1 sees.
func FuzzMLDSA(f *testing.F) {
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), make([]byte, mldsa.PrivateKeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(marshalMLDSA(key))
	f.Add(marshalMLDSA(key)[:53])
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := parseMLDSA(der)
		if err != nil {
			return
		}
		if again := marshalMLDSA(key); !bytes.Equal(again, der) {
			t.Fatalf("%x becomes %x", der, again)
		}
		var info struct {
			Version   int
			Algorithm struct{ ID asn1.ObjectIdentifier }
			Key       []byte
		}
		var seed asn1.RawValue
		if rest, err := asn1.Unmarshal(der, &info); err != nil || len(rest) > 0 || info.Version != 0 || info.Algorithm.ID.String() != "2.16.840.1.101.3.4.3.17" {
			t.Fatalf("%x: %+v, %v", der, info, err)
		}
		if rest, err := asn1.Unmarshal(info.Key, &seed); err != nil || len(rest) > 0 || seed.Class != asn1.ClassContextSpecific || seed.Tag != 0 || seed.IsCompound || !bytes.Equal(seed.Bytes, key.Bytes()) {
			t.Fatalf("%x: %+v, %v", der, seed, err)
		}
	})
}
