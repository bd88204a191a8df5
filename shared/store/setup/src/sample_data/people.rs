//! Who the sample customers are: names as they occur in their countries, addresses that can never be delivered.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// ISO 3166 alpha-2 code, customers in a thousand, and how people are called there.
const COUNTRIES: [(&str, u32, &Names); 16] = [
    ("DE", 330, &GERMAN),
    ("FR", 130, &FRENCH),
    ("NL", 95, &DUTCH),
    ("AT", 80, &GERMAN),
    ("IT", 70, &ITALIAN),
    ("ES", 60, &SPANISH),
    ("PL", 50, &POLISH),
    ("CH", 45, &GERMAN),
    ("BE", 40, &DUTCH),
    ("GB", 30, &ENGLISH),
    ("SE", 20, &NORDIC),
    ("DK", 15, &NORDIC),
    ("CZ", 12, &CZECH),
    ("PT", 10, &PORTUGUESE),
    ("IE", 8, &ENGLISH),
    ("LU", 5, &FRENCH),
];

struct Names {
    first: &'static [&'static str],
    last: &'static [&'static str],
}

static GERMAN: Names = Names {
    first: &[
        "Anna",
        "Lukas",
        "Marie",
        "Jonas",
        "Sophie",
        "Felix",
        "Lea",
        "Maximilian",
        "Johanna",
        "Paul",
        "Clara",
        "Leon",
        "Katharina",
        "Tobias",
        "Julia",
        "Stefan",
        "Sabine",
        "Thomas",
        "Petra",
        "Andreas",
        "Monika",
        "Jürgen",
        "Birgit",
        "Wolfgang",
        "Ursula",
        "Matthias",
        "Franziska",
        "Sebastian",
        "Lena",
        "Florian",
        "Greta",
        "Moritz",
        "Mia",
        "Björn",
        "Käthe",
        "Emil",
        "Ayşe",
        "Mehmet",
    ],
    last: &[
        "Müller",
        "Schmidt",
        "Schneider",
        "Fischer",
        "Weber",
        "Meyer",
        "Wagner",
        "Becker",
        "Schulz",
        "Hoffmann",
        "Schäfer",
        "Koch",
        "Bauer",
        "Richter",
        "Klein",
        "Wolf",
        "Schröder",
        "Neumann",
        "Schwarz",
        "Zimmermann",
        "Braun",
        "Krüger",
        "Hofmann",
        "Hartmann",
        "Lange",
        "Werner",
        "Krause",
        "Lehmann",
        "Köhler",
        "Maier",
        "Huber",
        "Gruber",
        "Steiner",
        "Moser",
        "Pichler",
        "Brunner",
        "Keller",
        "Frei",
        "Baumann",
        "Graf",
        "Vogt",
        "Sommer",
        "Groß",
        "Yılmaz",
        "Nowak",
        "Winter",
    ],
};

static FRENCH: Names = Names {
    first: &[
        "Camille",
        "Louis",
        "Léa",
        "Hugo",
        "Chloé",
        "Gabriel",
        "Manon",
        "Arthur",
        "Inès",
        "Jules",
        "Emma",
        "Raphaël",
        "Sarah",
        "Nathalie",
        "Philippe",
        "Isabelle",
        "Olivier",
        "Sylvie",
        "François",
        "Hélène",
        "Benoît",
        "Élodie",
        "Mathieu",
        "Aurélie",
        "Antoine",
        "Zoé",
        "Théo",
        "Margaux",
        "Karim",
        "Amélie",
    ],
    last: &[
        "Martin",
        "Bernard",
        "Dubois",
        "Thomas",
        "Robert",
        "Petit",
        "Durand",
        "Leroy",
        "Moreau",
        "Simon",
        "Laurent",
        "Lefèvre",
        "Michel",
        "Garcia",
        "David",
        "Bertrand",
        "Roux",
        "Vincent",
        "Fournier",
        "Morel",
        "Girard",
        "André",
        "Mercier",
        "Dupont",
        "Lambert",
        "Bonnet",
        "François",
        "Benali",
        "Legrand",
        "Garnier",
        "Faure",
        "Rousseau",
    ],
};

static DUTCH: Names = Names {
    first: &[
        "Daan", "Emma", "Sem", "Julia", "Bram", "Tess", "Lucas", "Sanne", "Thijs", "Fleur", "Jeroen", "Marieke",
        "Pieter", "Anouk", "Koen", "Ilse", "Ruben", "Lotte", "Maarten", "Femke", "Wouter", "Noor", "Hendrik", "Eline",
        "Joris", "Saskia", "Loïc", "Maud",
    ],
    last: &[
        "de Jong",
        "Jansen",
        "de Vries",
        "van den Berg",
        "van Dijk",
        "Bakker",
        "Janssens",
        "Visser",
        "Smit",
        "Meijer",
        "de Boer",
        "Mulder",
        "de Groot",
        "Bos",
        "Vos",
        "Peeters",
        "Hendriks",
        "van Leeuwen",
        "Dekker",
        "Brouwer",
        "de Wit",
        "Dijkstra",
        "Maes",
        "Claes",
        "Willems",
        "Mertens",
        "Wouters",
        "van der Meer",
        "Kuipers",
        "Postma",
    ],
};

static ITALIAN: Names = Names {
    first: &[
        "Giulia",
        "Francesco",
        "Sofia",
        "Alessandro",
        "Aurora",
        "Lorenzo",
        "Martina",
        "Matteo",
        "Chiara",
        "Andrea",
        "Elena",
        "Marco",
        "Francesca",
        "Davide",
        "Valentina",
        "Giuseppe",
        "Paola",
        "Nicolò",
        "Roberta",
        "Luca",
        "Silvia",
        "Stefano",
        "Caterina",
        "Pietro",
    ],
    last: &[
        "Rossi", "Russo", "Ferrari", "Esposito", "Bianchi", "Romano", "Colombo", "Ricci", "Marino", "Greco", "Bruno",
        "Gallo", "Conti", "De Luca", "Mancini", "Costa", "Giordano", "Rizzo", "Lombardi", "Moretti", "Barbieri",
        "Fontana", "Santoro", "D'Angelo",
    ],
};

static SPANISH: Names = Names {
    first: &[
        "Lucía",
        "Hugo",
        "Martina",
        "Mateo",
        "Paula",
        "Álvaro",
        "Carmen",
        "Javier",
        "María",
        "Pablo",
        "Sofía",
        "Alejandro",
        "Laura",
        "Adrián",
        "Elena",
        "Sergio",
        "Ana",
        "Íñigo",
        "Nuria",
        "Jordi",
        "Rocío",
        "Andrés",
        "Inés",
        "Rubén",
    ],
    last: &[
        "García",
        "Fernández",
        "González",
        "Rodríguez",
        "López",
        "Martínez",
        "Sánchez",
        "Pérez",
        "Gómez",
        "Martín",
        "Jiménez",
        "Ruiz",
        "Hernández",
        "Díaz",
        "Moreno",
        "Muñoz",
        "Álvarez",
        "Romero",
        "Alonso",
        "Gutiérrez",
        "Navarro",
        "Torres",
        "Ibáñez",
        "Peña",
    ],
};

static POLISH: Names = Names {
    first: &[
        "Anna",
        "Piotr",
        "Katarzyna",
        "Krzysztof",
        "Małgorzata",
        "Andrzej",
        "Agnieszka",
        "Tomasz",
        "Barbara",
        "Paweł",
        "Ewa",
        "Michał",
        "Zofia",
        "Jakub",
        "Hanna",
        "Łukasz",
        "Magdalena",
        "Wojciech",
        "Joanna",
        "Stanisław",
    ],
    last: &[
        "Nowak",
        "Kowalska",
        "Wiśniewski",
        "Wójcik",
        "Kowalczyk",
        "Kamińska",
        "Lewandowski",
        "Zielińska",
        "Szymański",
        "Woźniak",
        "Dąbrowski",
        "Kozłowska",
        "Mazur",
        "Jankowski",
        "Kwiatkowska",
        "Krawczyk",
        "Piotrowski",
        "Grabowska",
        "Pawłowski",
        "Zając",
    ],
};

static ENGLISH: Names = Names {
    first: &[
        "Oliver",
        "Amelia",
        "George",
        "Isla",
        "Harry",
        "Ava",
        "Jack",
        "Emily",
        "Charlie",
        "Grace",
        "Thomas",
        "Freya",
        "James",
        "Niamh",
        "William",
        "Aoife",
        "Edward",
        "Charlotte",
        "Siobhán",
        "Daniel",
    ],
    last: &[
        "Smith", "Jones", "Taylor", "Brown", "Williams", "Wilson", "Johnson", "Davies", "Patel", "Wright", "Walker",
        "Thompson", "White", "Hughes", "Green", "Hall", "Wood", "O'Brien", "Murphy", "Byrne", "Doyle", "Clarke",
    ],
};

static NORDIC: Names = Names {
    first: &[
        "Astrid", "Lars", "Freja", "Mikkel", "Åsa", "Oskar", "Ida", "Søren", "Karin", "Anders", "Ingrid", "Nils",
        "Sofie", "Björn", "Elsa", "Magnus", "Signe", "Jørgen", "Maja", "Erik",
    ],
    last: &[
        "Andersson",
        "Johansson",
        "Karlsson",
        "Nilsson",
        "Eriksson",
        "Larsson",
        "Lindström",
        "Bergman",
        "Lundqvist",
        "Sjöberg",
        "Nielsen",
        "Jensen",
        "Hansen",
        "Pedersen",
        "Sørensen",
        "Kjær",
        "Møller",
        "Holm",
        "Østergaard",
        "Dahl",
    ],
};

static CZECH: Names = Names {
    first: &[
        "Jan",
        "Tereza",
        "Jakub",
        "Eliška",
        "Tomáš",
        "Anna",
        "Ondřej",
        "Kateřina",
        "Petr",
        "Lucie",
        "Jiří",
        "Markéta",
    ],
    last: &[
        "Novák",
        "Svobodová",
        "Novotný",
        "Dvořáková",
        "Černý",
        "Procházková",
        "Kučera",
        "Veselá",
        "Horák",
        "Němcová",
        "Marek",
        "Krejčí",
    ],
};

static PORTUGUESE: Names = Names {
    first: &[
        "João", "Maria", "Tiago", "Beatriz", "Gonçalo", "Inês", "Rui", "Leonor", "Duarte", "Catarina", "André", "Joana",
    ],
    last: &[
        "Silva",
        "Santos",
        "Ferreira",
        "Pereira",
        "Oliveira",
        "Costa",
        "Rodrigues",
        "Martins",
        "Gonçalves",
        "Simões",
        "Conceição",
    ],
};

/// Names, places and addresses for customers, none of whose addresses occurs twice.
pub(super) struct People {
    taken: HashSet<String>,
}

pub(super) struct Person {
    pub(super) name: String,
    pub(super) email: String,
    pub(super) country: &'static str,
}

impl People {
    pub(super) fn new() -> Self {
        Self { taken: HashSet::new() }
    }

    pub(super) fn next(&mut self, random: &mut ChaCha8Rng) -> Person {
        let mut place = random.random_range(0..COUNTRIES.iter().map(|(_, weight, _)| weight).sum());
        let found = COUNTRIES.iter().find(|(_, weight, _)| {
            let here = place < *weight;
            place = place.saturating_sub(*weight);
            here
        });
        let (country, _, names) = found.unwrap_or(&COUNTRIES[0]);
        let first = names.first[random.random_range(0..names.first.len())];
        let last = names.last[random.random_range(0..names.last.len())];
        let host = ["mail", "post", "inbox", "web"][random.random_range(0..4)];
        Person { name: format!("{first} {last}"), email: self.address(first, last, host), country }
    }

    /// `first.last@host.example`, numbered from the second of that name on. Mail to `.example` goes nowhere (RFC 2606).
    fn address(&mut self, first: &str, last: &str, host: &str) -> String {
        let local = format!("{}.{}", plain(first), plain(last));
        let mut address = format!("{local}@{host}.example");
        let mut number = 2;
        while !self.taken.insert(address.clone()) {
            address = format!("{local}{number}@{host}.example");
            number += 1;
        }
        address
    }
}

/// The name in letters that every mail server takes.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    for letter in name.chars().flat_map(char::to_lowercase) {
        match letter {
            'a'..='z' => plain.push(letter),
            'ä' | 'æ' => plain.push_str("ae"),
            'ö' | 'ø' => plain.push_str("oe"),
            'ü' => plain.push_str("ue"),
            'å' => plain.push_str("aa"),
            'ß' => plain.push_str("ss"),
            'á' | 'à' | 'ã' | 'ą' => plain.push('a'),
            'ç' | 'č' | 'ć' => plain.push('c'),
            'é' | 'è' | 'ê' | 'ë' | 'ě' | 'ę' => plain.push('e'),
            'í' | 'î' | 'ï' | 'ı' => plain.push('i'),
            'ł' => plain.push('l'),
            'ñ' | 'ń' | 'ň' => plain.push('n'),
            'ó' | 'ò' | 'ô' | 'õ' => plain.push('o'),
            'ř' => plain.push('r'),
            'š' | 'ś' | 'ş' => plain.push('s'),
            'ú' => plain.push('u'),
            'ý' => plain.push('y'),
            'ž' | 'ź' | 'ż' => plain.push('z'),
            _ => {}
        }
    }
    plain
}
