"""Text of single tokens."""

# Decoders put this in the place of an incomplete character.
REPLACEMENT = "\ufffd"
# Byte-level tokenizers name bytes by letters: visible ones of Latin-1 by themselves,
# the others by the letters from 256 on.
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in VISIBLE]
BYTES = {chr(byte): byte for byte in VISIBLE}
BYTES |= {chr(256 + number): byte for number, byte in enumerate(OTHERS)}


def token_text(tokenizer, token: int) -> str:
    """Text of a token; its bytes, as ``<0xF0>``, if it is a part of a character."""
    text = tokenizer.decode([token])
    if text and REPLACEMENT not in text:
        return text
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        return text
    name = str(tokenizer.convert_ids_to_tokens(token))
    # Tokenizers without such letters write bytes like this themselves.
    if not BYTES.keys() >= set(name) or name.startswith("<"):
        return name
    return "".join(f"<0x{BYTES[letter]:02X}>" for letter in name)
