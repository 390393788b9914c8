package main

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"encoding/asn1"
	"errors"

	"github.com/youmark/pkcs8"
)

// encryptedKey is EncryptedPrivateKeyInfo (RFC 5958) with PBES2, scrypt (RFC 7914) and AES-256-CBC.
type encryptedKey struct {
	Algorithm struct {
		ID    asn1.ObjectIdentifier
		PBES2 struct {
			KDF struct {
				ID     asn1.ObjectIdentifier
				Scrypt struct {
					Salt                         []byte
					Cost, BlockSize, Parallelism int
				}
			}
			Cipher struct {
				ID asn1.ObjectIdentifier
				IV []byte
			}
		}
	}
	Data []byte
}

var oidPBES2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}

// What a try at a passphrase may cost at most, so that a file cannot ask for all memory. OpenSSL has the
// first limit, too.
const (
	maxKeyMemory      = 32 << 20
	maxKeyParallelism = 16
)

var (
	errNotOurEncryption = errors.New("it is not encrypted with scrypt and AES-256-CBC, as this program does it")
	errNotDecrypted     = errors.New("it does not decrypt to a key")
)

// encryptPKCS8 encrypts a PrivateKeyInfo.
func encryptPKCS8(der, passphrase []byte) ([]byte, error) {
	var k encryptedKey
	k.Algorithm.ID = oidPBES2
	kdf, cipher := &k.Algorithm.PBES2.KDF, &k.Algorithm.PBES2.Cipher
	kdf.ID, cipher.ID = keyCost.OID(), pkcs8.AES256CBC.OID()
	kdf.Scrypt.Salt, cipher.IV = make([]byte, keyCost.GetSaltSize()), make([]byte, pkcs8.AES256CBC.IVSize())
	rand.Read(kdf.Scrypt.Salt)
	rand.Read(cipher.IV)
	kdf.Scrypt.Cost, kdf.Scrypt.BlockSize, kdf.Scrypt.Parallelism = keyCost.CostParameter, keyCost.BlockSize, keyCost.ParallelizationParameter
	key, err := k.derive(passphrase)
	if err != nil {
		return nil, err
	}
	if k.Data, err = pkcs8.AES256CBC.Encrypt(key, cipher.IV, der); err != nil {
		return nil, err
	}
	return asn1.Marshal(k)
}

// parseEncrypted reads what encryptPKCS8 writes, also with other costs, and nothing else.
func parseEncrypted(der []byte) (k encryptedKey, err error) {
	if _, err := asn1.Unmarshal(der, &k); err != nil {
		return k, errNotOurEncryption
	}
	kdf, cipher := k.Algorithm.PBES2.KDF, k.Algorithm.PBES2.Cipher
	s := kdf.Scrypt
	switch {
	case !k.Algorithm.ID.Equal(oidPBES2) || !kdf.ID.Equal(keyCost.OID()) || !cipher.ID.Equal(pkcs8.AES256CBC.OID()):
		return k, errNotOurEncryption
	case s.Cost < 2 || s.BlockSize < 1 || s.Parallelism < 1 || s.Parallelism > maxKeyParallelism ||
		s.Cost > maxKeyMemory || s.BlockSize > maxKeyMemory/128/s.Cost: // scrypt itself wants a power of two
		return k, errors.New("its encryption has costs beyond 32 MiB, or none")
	case len(s.Salt) == 0 || len(cipher.IV) != aes.BlockSize || len(k.Data) == 0 || len(k.Data)%aes.BlockSize != 0:
		return k, errors.New("it is damaged, or cut off")
	}
	if again, err := asn1.Marshal(k); err != nil || !bytes.Equal(again, der) {
		return k, errNotOurEncryption
	}
	return k, nil
}

func (k *encryptedKey) derive(passphrase []byte) ([]byte, error) {
	s := k.Algorithm.PBES2.KDF.Scrypt
	cost := pkcs8.ScryptOpts{SaltSize: len(s.Salt), CostParameter: s.Cost, BlockSize: s.BlockSize, ParallelizationParameter: s.Parallelism}
	key, _, err := cost.DeriveKey(passphrase, s.Salt, pkcs8.AES256CBC.KeySize())
	return key, err
}

// decryptPKCS8 returns the PrivateKeyInfo that encryptPKCS8 was given. Nothing authenticates it: of
// another passphrase, and of damage, the padding shows most, and whoever parses it the rest.
func decryptPKCS8(der, passphrase []byte) ([]byte, error) {
	k, err := parseEncrypted(der)
	if err != nil {
		return nil, err
	}
	key, err := k.derive(passphrase)
	if err != nil {
		return nil, err
	}
	plain, err := pkcs8.AES256CBC.Decrypt(key, k.Algorithm.PBES2.Cipher.IV, k.Data)
	if err != nil {
		return nil, err
	}
	n := int(plain[len(plain)-1]) // the padding: n bytes n
	if n < 1 || n > aes.BlockSize || !bytes.HasSuffix(plain, bytes.Repeat([]byte{byte(n)}, n)) {
		return nil, errNotDecrypted
	}
	return plain[:len(plain)-n], nil
}
